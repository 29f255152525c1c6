namespace OpenSora.Weights;

/// <summary>The scales that published checkpoints store beside 8-bit weights. The true weights are the products of both.</summary>
/// <remarks>Names: <c>x.weight_scale</c> (compressed-tensors, ModelOpt) and <c>x.scale_weight</c> (ComfyUI) for the weights <c>x.weight</c>; one
/// number for the tensor, or one for each row.</remarks>
internal static class WeightScales
{
    private const string Weight = "weight",
        Marker = "scaled_fp8"; // an empty tensor that says that a checkpoint of ComfyUI has scales

    private static readonly string[] Names = ["weight_scale", "scale_weight"];

    // Scales of activations, which are not quantized here, and the description of the format.
    private static readonly string[] Others = ["input_scale", "scale_input", "comfy_quant"];

    /// <summary>Finds the scale of a tensor; null if the tensor does not have 8-bit floats or has no scale.</summary>
    public static TensorEntry? Of(TensorEntry weight, WeightsFile file)
    {
        if (Float8.ValuesOf(weight.Type) is null || SiblingOf(weight.Name, Weight, "") is not { } stem)
        {
            return null;
        }

        var name = Array.Find(Names, name => file.Tensors.ContainsKey(stem + name));
        return name is null ? null : file.Tensors[stem + name];
    }

    /// <summary>Determines whether a tensor is the scale of 8-bit weights in the same file.</summary>
    public static bool IsScale(TensorEntry entry, WeightsFile file) => Array.Exists(Names, name => IsBeside(entry.Name, name, file));

    /// <summary>Determines whether a tensor describes the quantization of 8-bit weights and is not needed to load them.</summary>
    public static bool IsDescription(TensorEntry entry, WeightsFile file) =>
        SiblingOf(entry.Name, Marker, "") is not null || Array.Exists(Others, name => IsBeside(entry.Name, name, file));

    /// <summary>Returns the reason why a scale cannot be applied, or null if it can.</summary>
    public static string? WhyNot(TensorEntry scale, TensorEntry weight)
    {
        var rows = weight.Shape.Count > 0 ? weight.Shape[0] : 1;
        var isForRows = scale.Elements == rows && scale.Shape.Count > 0 && scale.Shape[0] == rows;
        return scale.Dtype is { } dtype && ModuleMatch.IsFloating(dtype) && (scale.Elements == 1 || isForRows)
            ? null
            : $"its scale '{scale.Name}' is {scale.Type} [{string.Join(", ", scale.Shape)}]; supported are floating-point scales with one number, "
                + $"or with one for each of its {rows} rows";
    }

    private static bool IsBeside(string name, string ending, WeightsFile file) =>
        SiblingOf(name, ending, Weight) is { } weight && file.Tensors.TryGetValue(weight, out var entry) && Float8.ValuesOf(entry.Type) is not null;

    // The name with another last part; null if the last part is not the expected one.
    private static string? SiblingOf(string name, string last, string other) =>
        name.EndsWith(last, StringComparison.Ordinal) && (name.Length == last.Length || name[^(last.Length + 1)] is '.')
            ? name[..^last.Length] + other
            : null;
}
