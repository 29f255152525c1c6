namespace OpenSora.Weights;

/// <summary>A section (dictionary of tensors) of a PyTorch checkpoint.</summary>
/// <param name="Name">The path of the section, such as <c>ema</c> or <c>model.state_dict</c>; empty for the outermost dictionary.</param>
/// <param name="Tensors">The number of tensors in the section.</param>
/// <param name="Chosen">Indicates whether <see cref="WeightsFile.Tensors"/> contains the tensors of this section.</param>
internal sealed record WeightsSection(string Name, int Tensors, bool Chosen);
