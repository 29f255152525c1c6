using OpenSora.Weights;

namespace OpenSora.Models;

/// <summary>A collection of the architectures that an application supports: the built-in ones and those that it adds.</summary>
/// <remarks>Collections are immutable; <see cref="Add(Architecture{IVideoTransformer})"/> returns a larger one. There is no global
/// registry.</remarks>
public sealed class Architectures
{
    private Architectures(
        IReadOnlyList<Architecture<IVideoTransformer>> transformers,
        IReadOnlyList<Architecture<IVideoAutoencoder>> autoencoders,
        IReadOnlyList<Architecture<ITextEncoder>> textEncoders
    ) => (Transformers, Autoencoders, TextEncoders) = (transformers, autoencoders, textEncoders);

    /// <summary>The built-in architectures.</summary>
    public static Architectures BuiltIn { get; } =
        new(
            [StdiT.Architecture, StdiT.PixArt, DiT.Architecture, DiT.Latte, StdiT2.Architecture, StdiT3.Architecture],
            [AutoencoderKL.Architecture, AutoencoderKLTemporalDecoder.Architecture, TinyAutoencoder.Architecture],
            [T5TextEncoder.Architecture, ClipTextEncoder.Architecture, ClassLabelEncoder.Architecture]
        );

    /// <summary>The architectures of transformers.</summary>
    public IReadOnlyList<Architecture<IVideoTransformer>> Transformers { get; }

    /// <summary>The architectures of autoencoders.</summary>
    public IReadOnlyList<Architecture<IVideoAutoencoder>> Autoencoders { get; }

    /// <summary>The architectures of text encoders.</summary>
    public IReadOnlyList<Architecture<ITextEncoder>> TextEncoders { get; }

    /// <summary>Adds the architecture of a transformer.</summary>
    /// <returns>A new collection that contains the added architecture; this collection is unchanged.</returns>
    /// <exception cref="ArgumentException">An architecture with this name already exists.</exception>
    public Architectures Add(Architecture<IVideoTransformer> transformer) => new(With(Transformers, transformer), Autoencoders, TextEncoders);

    /// <summary>Adds the architecture of an autoencoder.</summary>
    /// <returns>A new collection that contains the added architecture; this collection is unchanged.</returns>
    /// <exception cref="ArgumentException">An architecture with this name already exists.</exception>
    public Architectures Add(Architecture<IVideoAutoencoder> autoencoder) => new(Transformers, With(Autoencoders, autoencoder), TextEncoders);

    /// <summary>Adds the architecture of a text encoder.</summary>
    /// <returns>A new collection that contains the added architecture; this collection is unchanged.</returns>
    /// <exception cref="ArgumentException">An architecture with this name already exists.</exception>
    public Architectures Add(Architecture<ITextEncoder> textEncoder) => new(Transformers, Autoencoders, With(TextEncoders, textEncoder));

    /// <summary>Compares weights with all architectures that they may belong to. No memory is allocated for the networks.</summary>
    /// <param name="file">The open weights file.</param>
    /// <returns>The matches, best first. The list is empty if the sizes are not valid for any network, or are too large for the size of the tensors
    /// in the file.</returns>
    public IReadOnlyList<WeightsMatch> Recognize(WeightsFile file)
    {
        ArgumentNullException.ThrowIfNull(file);
        if (file.Tensors.Values.Any(entry => entry.Shape.Any(size => size > Math.Max(entry.Length, 1 << 20))))
        {
            return [];
        }

        return
        [
            .. Transformers
                .SelectMany(architecture => architecture.Recognize(file))
                .Concat(Autoencoders.SelectMany(architecture => architecture.Recognize(file)))
                .Concat(TextEncoders.SelectMany(architecture => architecture.Recognize(file)))
                .OrderBy(match => match.Problems)
                .ThenBy(match => match.Report.Initialized.Count),
        ];
    }

    /// <summary>Finds what reads configurations of a type: the architecture of this name if it has this type, otherwise any architecture with
    /// it.</summary>
    internal (object? Defaults, System.Text.Json.Serialization.Metadata.IJsonTypeInfoResolver? Resolver) JsonOf(Type configType, string? name = null)
    {
        var all = Transformers
            .Select(a => (a.Name, a.ConfigType, a.Defaults, a.JsonResolver))
            .Concat(Autoencoders.Select(a => (a.Name, a.ConfigType, a.Defaults, a.JsonResolver)))
            .Concat(TextEncoders.Select(a => (a.Name, a.ConfigType, a.Defaults, a.JsonResolver)))
            .Where(a => a.ConfigType == configType)
            .ToList();
        var found = all.Find(a => string.Equals(a.Name, name, StringComparison.OrdinalIgnoreCase));
        var (_, _, defaults, resolver) = found.Name is null ? all.FirstOrDefault() : found;
        return (defaults, resolver);
    }

    private static IReadOnlyList<Architecture<TNetwork>> With<TNetwork>(IReadOnlyList<Architecture<TNetwork>> known, Architecture<TNetwork> added)
        where TNetwork : class
    {
        ArgumentNullException.ThrowIfNull(added);
        return known.Any(architecture => architecture.Name.Equals(added.Name, StringComparison.OrdinalIgnoreCase))
            ? throw new ArgumentException($"There already is an architecture '{added.Name}'; choose another name.", nameof(added))
            : [.. known, added];
    }
}
