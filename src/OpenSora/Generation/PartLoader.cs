using OpenSora.ModelFolders;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Loads one part of a model folder.</summary>
/// <param name="Folder">The model folder.</param>
/// <param name="Part">The description of the part.</param>
/// <param name="Device">The device to load the part to.</param>
/// <param name="Precision">The data type of matrix multiplications; null for the data type of the weights.</param>
internal sealed record PartLoader(ModelFolder Folder, ModelPart Part, Device Device, ScalarType? Precision)
{
    /// <summary>Checks that the architectures of all parts that are not replaced are known.</summary>
    /// <exception cref="InvalidModelException">An architecture is unknown.</exception>
    internal static void Check(ModelFolder folder, PartFactories parts)
    {
        PartLoader Part(ModelPart part) => new(folder, part, CPU, null);
        Part(folder.Description.Denoiser).Check(parts.Architectures.Transformers.Select(a => a.Name));
        if (parts.Vae is null)
        {
            Part(folder.Description.Vae).Check(parts.Architectures.Autoencoders.Select(a => a.Name));
        }

        if (folder.Description.Preview is { } preview)
        {
            Part(preview).Check(parts.Architectures.Autoencoders.Select(a => a.Name));
        }

        if (parts.TextEncoder is null)
        {
            Part(folder.Description.TextEncoder).Check(parts.Architectures.TextEncoders.Select(a => a.Name));
        }
    }

    /// <summary>Creates the network and loads its weights.</summary>
    /// <param name="architectures">The known architectures.</param>
    /// <exception cref="InvalidModelException">The architecture is unknown, or its configuration is not valid.</exception>
    internal TNetwork Make<TNetwork>(IReadOnlyList<Architecture<TNetwork>> architectures)
        where TNetwork : class
    {
        Check(architectures.Select(a => a.Name));
        var architecture = architectures.Single(a => a.Name.Equals(Part.Architecture, StringComparison.OrdinalIgnoreCase));
        var settings = new TextEncoderSettings
        {
            Tokenizer = architecture.TokenizerFile is null && Part.Tokenizer is null ? null : Folder.Tokenizer,
            MaxTokens = Part.MaxTokens,
            CleanCaptions = Part.CleanCaptions,
        };
        return Made(() =>
            architecture.Load(
                Folder.ReadConfigOf(Part, architecture),
                () => Folder.WeightsOf(Part),
                Part.Weights is not null,
                Device,
                Precision,
                settings
            )
        );
    }

    private T Made<T>(Func<T> make)
    {
        try
        {
            return make();
        }
        catch (ArgumentException exception) // the configuration has sizes that are not valid
        {
            throw new InvalidModelException(
                Folder.Path,
                $"the config of its {Part.Architecture} in {ModelFolder.FileName} is not valid: {exception.Message}",
                exception
            );
        }
    }

    /// <summary>Checks that the architecture of the part is known.</summary>
    /// <param name="names">The known names.</param>
    /// <exception cref="InvalidModelException">The architecture is unknown.</exception>
    internal void Check(IEnumerable<string> names)
    {
        var known = names.ToList();
        if (!known.Contains(Part.Architecture, StringComparer.OrdinalIgnoreCase))
        {
            throw new InvalidModelException(
                Folder.Path,
                $"its {ModelFolder.FileName} specifies the unknown architecture '{Part.Architecture}'; "
                    + $"the architectures known for this part are {string.Join(", ", known.Select(name => $"'{name}'"))}."
            );
        }
    }
}
