using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>How text encoders are made, by the names that <c>model.json</c> uses.</summary>
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
            // the tokenizer is named by its vocab.json, beside which its merges.txt lies
            var encoder = ClipTextEncoder.Load(part.Config<ClipTextConfig>(), part.Weights, Path.GetDirectoryName(part.Folder.Tokenizer)!);
            part.Prepare(encoder.Model);
            return encoder;
        },
        ["class_labels"] = part => new ClassLabelEncoder(part.Config<ClassLabels>(), part.Device),
    };
}

/// <summary>One part of a model folder, about to be loaded.</summary>
/// <param name="Folder">The model's folder.</param>
/// <param name="Part">The part.</param>
/// <param name="Device">Where it belongs.</param>
/// <param name="Precision">The type to multiply matrices in; null: that of the weights.</param>
internal sealed record PartLoader(ModelFolder Folder, ModelPart Part, Device Device, ScalarType? Precision)
{
    /// <summary>The architecture's own settings.</summary>
    internal T Config<T>()
        where T : class => Folder.ReadConfig<T>(Part);

    /// <summary>The path of its weights.</summary>
    /// <exception cref="InvalidModelException">The description names none.</exception>
    internal string Weights => Folder.WeightsOf(Part);

    /// <summary>Makes the network of the architecture that the part names.</summary>
    /// <exception cref="InvalidModelException">There is no such architecture, or its settings are not valid.</exception>
    internal TNetwork Make<TNetwork>(IReadOnlyCollection<Architecture<TNetwork>> architectures)
        where TNetwork : class
    {
        Check(architectures.Select(a => a.Name));
        var architecture = architectures.Single(a => a.Name.Equals(Part.Architecture, StringComparison.OrdinalIgnoreCase));
        return Made(() => architecture.Load(Folder.ReadConfig(Part, architecture.ConfigType), Weights, Device, Precision));
    }

    /// <summary>Makes the text encoder that the part names.</summary>
    /// <exception cref="InvalidModelException">There is no such encoder, or its settings are not valid.</exception>
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
        catch (ArgumentException exception) // sizes of which no network can be made
        {
            throw new InvalidModelException(
                Folder.Path,
                $"the config of its {Part.Architecture} in {ModelFolder.FileName} is not valid: {exception.Message}",
                exception
            );
        }
    }

    /// <summary>Checks that there is such an architecture.</summary>
    internal void Check(IEnumerable<string> names)
    {
        var known = names.ToList();
        if (!known.Contains(Part.Architecture, StringComparer.OrdinalIgnoreCase))
        {
            throw new InvalidModelException(
                Folder.Path,
                $"its {ModelFolder.FileName} names the architecture '{Part.Architecture}'; "
                    + $"this version knows {string.Join(", ", known.Select(name => $"'{name}'"))} in that place."
            );
        }
    }

    /// <summary>Makes a network whose weights are loaded ready to be used.</summary>
    internal TModule Prepare<TModule>(TModule module)
        where TModule : nn.Module
    {
        module.eval();
        module.to(Device);
        return module.UseComputeType(Precision);
    }
}
