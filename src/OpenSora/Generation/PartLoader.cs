using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Factories of text encoders by the architecture names that <c>model.json</c> uses.</summary>
internal static class TextEncoders
{
    internal static readonly IReadOnlyDictionary<string, Func<PartLoader, ITextEncoder>> ByName = new Dictionary<
        string,
        Func<PartLoader, ITextEncoder>
    >(StringComparer.OrdinalIgnoreCase)
    {
        ["t5"] = part =>
        {
            var (text, folder) = (part.Folder.Description.TextEncoder, part.Folder);
            var encoder = T5TextEncoder.Load(part.Config<T5Config>(), part.Weights, folder.Tokenizer, text.MaxTokens, text.CleanCaptions);
            part.Prepare(encoder.Model);
            return encoder;
        },
        ["clip"] = part =>
        {
            // model.json specifies the path of vocab.json; merges.txt is in the same folder
            var encoder = ClipTextEncoder.Load(part.Config<ClipTextConfig>(), part.Weights, Path.GetDirectoryName(part.Folder.Tokenizer)!);
            part.Prepare(encoder.Model);
            return encoder;
        },
        ["class_labels"] = part => new ClassLabelEncoder(part.Config<ClassLabels>(), part.Device),
    };
}

/// <summary>Loads one part of a model folder.</summary>
/// <param name="Folder">The model folder.</param>
/// <param name="Part">The description of the part.</param>
/// <param name="Device">The device to load the part to.</param>
/// <param name="Precision">The data type of matrix multiplications; null for the data type of the weights.</param>
internal sealed record PartLoader(ModelFolder Folder, ModelPart Part, Device Device, ScalarType? Precision)
{
    /// <summary>Reads the configuration of the architecture.</summary>
    internal T Config<T>()
        where T : class => Folder.ReadConfig<T>(Part);

    /// <summary>Gets the path of the weights file.</summary>
    /// <exception cref="InvalidModelException">The description does not specify a weights file.</exception>
    internal string Weights => Folder.WeightsOf(Part);

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

        if (parts.TextEncoder is null)
        {
            Part(folder.Description.TextEncoder).Check(TextEncoders.ByName.Keys);
        }
    }

    /// <summary>Creates the network and loads its weights.</summary>
    /// <param name="architectures">The known architectures.</param>
    /// <exception cref="InvalidModelException">The architecture is unknown, or its configuration is not valid.</exception>
    internal TNetwork Make<TNetwork>(IReadOnlyCollection<Architecture<TNetwork>> architectures)
        where TNetwork : class
    {
        Check(architectures.Select(a => a.Name));
        var architecture = architectures.Single(a => a.Name.Equals(Part.Architecture, StringComparison.OrdinalIgnoreCase));
        return Made(() => architecture.Load(Folder.ReadConfig(Part, architecture.ConfigType), Weights, Device, Precision));
    }

    /// <summary>Creates the text encoder and loads its weights.</summary>
    /// <exception cref="InvalidModelException">The text encoder is unknown, or its configuration is not valid.</exception>
    internal ITextEncoder MakeTextEncoder()
    {
        Check(TextEncoders.ByName.Keys);
        return Made(() => TextEncoders.ByName[Part.Architecture](this));
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

    /// <summary>Prepares a network for inference after its weights are loaded: sets evaluation mode, the device and the precision.</summary>
    internal TModule Prepare<TModule>(TModule module)
        where TModule : nn.Module
    {
        module.eval();
        module.to(Device);
        return module.UseComputeType(Precision);
    }
}
