using System.Text.Json;
using OpenSora.Models;
using OpenSora.Runtime;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>The exception that is thrown when a folder cannot be used as a model.</summary>
/// <param name="path">The path of the folder, or the name that was searched for.</param>
/// <param name="reason">A description of the problem, what was expected and how to fix it.</param>
/// <param name="innerException">The exception that caused this one.</param>
public sealed class InvalidModelException(string path, string reason, Exception? innerException = null)
    : Exception($"'{path}' cannot be used as a model: {reason}", innerException)
{
    /// <summary>The path of the folder, or the name that was searched for.</summary>
    public string Path { get; } = path;

    /// <summary>The description of the problem, without the path.</summary>
    public string Reason { get; } = reason;
}

/// <summary>A model on disk: <c>model.json</c> with weights and a tokenizer in one folder. The format is described in
/// docs/model-folders.md.</summary>
public sealed class ModelFolder
{
    /// <summary>The file name of the model description.</summary>
    public const string FileName = "model.json";

    /// <summary>The format name in every model description.</summary>
    public const string Format = "opensora-model";

    /// <summary>The newest version of the format that can be read, which is also the version written.</summary>
    public const int Version = 1;

    /// <summary>The environment variable that lists folders with models, separated as in PATH.</summary>
    public const string Variable = "OPENSORA_MODELS";

    private readonly Lazy<PromptVocabulary?> _vocabulary;

    private ModelFolder(string path, ModelDescription description)
    {
        Path = path;
        Description = description;
        _vocabulary = new(() => Description.Vocabulary is { } file ? new PromptVocabulary(File.ReadLines(FileOf(file))) : null);
    }

    /// <summary>The full path of the folder.</summary>
    public string Path { get; }

    /// <summary>The contents of <c>model.json</c>.</summary>
    public ModelDescription Description { get; }

    /// <summary>The path of the denoiser's weights file.</summary>
    public string DenoiserWeights => WeightsOf(Description.Denoiser);

    /// <summary>The path of the autoencoder's weights file.</summary>
    public string VaeWeights => WeightsOf(Description.Vae);

    /// <summary>The path of the text encoder's weights file.</summary>
    public string TextEncoderWeights => WeightsOf(Description.TextEncoder);

    /// <summary>The path of the tokenizer file.</summary>
    /// <exception cref="InvalidModelException">The description does not name a tokenizer.</exception>
    public string Tokenizer =>
        FileOf(
            Description.TextEncoder.Tokenizer
                ?? throw new InvalidModelException(
                    Path,
                    $"its {FileName} names no tokenizer, which the text encoder {Description.TextEncoder.Architecture} requires."
                )
        );

    /// <summary>The folders that are searched for built-in models, in order: those listed in <see cref="Variable"/>, <c>models</c> in the program's
    /// folder and its parent folders, and <c>models</c> in the current folder and its parent folders.</summary>
    public static IReadOnlyList<string> SearchFolders
    {
        get
        {
            var folders = (Environment.GetEnvironmentVariable(Variable) ?? "")
                .Split(System.IO.Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
                .ToList();
            foreach (var start in new[] { AppContext.BaseDirectory, Environment.CurrentDirectory })
            {
                for (var folder = start; folder is not null; folder = System.IO.Path.GetDirectoryName(folder))
                {
                    folders.Add(System.IO.Path.Combine(folder, "models"));
                }
            }

            return [.. folders.Select(System.IO.Path.GetFullPath).Distinct(StringComparer.Ordinal).Where(Directory.Exists)];
        }
    }

    /// <summary>Opens a model, validates its description and verifies that its files exist.</summary>
    /// <param name="pathOrName">The path of a folder that contains <c>model.json</c>, or the name of a built-in model.</param>
    /// <exception cref="InvalidModelException">The model does not exist, the folder is not a model folder, or its description is invalid.</exception>
    public static ModelFolder Open(string pathOrName)
    {
        ArgumentException.ThrowIfNullOrEmpty(pathOrName);
        var path = Find(pathOrName, SearchFolders);
        ModelDescription description;
        try
        {
            description = Parse(path, JsonBytes.Read(System.IO.Path.Combine(path, FileName)));
        }
        catch (JsonException exception)
        {
            throw new InvalidModelException(path, $"its {FileName} is not valid: {exception.Message}", exception);
        }

        var folder = new ModelFolder(path, description);
        folder.Check();
        return folder;
    }

    /// <summary>Writes <c>model.json</c> to a folder and opens the model. The file is written under a temporary name and then renamed.</summary>
    /// <param name="path">The path of the folder, which must contain the files that the description names.</param>
    /// <param name="description">The description to write.</param>
    /// <exception cref="InvalidModelException">The description is inconsistent or names files that do not exist. Nothing is written.</exception>
    /// <exception cref="IOException">The file could not be written.</exception>
    public static ModelFolder Save(string path, ModelDescription description)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(description);
        path = System.IO.Path.GetFullPath(path);
        var kind = description.Sampling.Sampler == SamplerKind.RectifiedFlow ? DiffusionKind.RectifiedFlow : DiffusionKind.Gaussian;
        var diffusion = description.Diffusion with { Kind = kind };
        var folder = new ModelFolder(path, description with { Format = Format, Version = Version, Diffusion = diffusion });
        folder.Check();
        AtomicFile.Write(System.IO.Path.Combine(path, FileName), stream => DescriptionJson.Write(stream, folder.Description));
        return folder;
    }

    /// <summary>Reads the settings of a part.</summary>
    /// <typeparam name="T">The configuration record of the architecture. Its property names are in snake case in the file.</typeparam>
    /// <param name="part">The part of this model.</param>
    /// <exception cref="InvalidModelException">A setting is unknown, missing or of the wrong type.</exception>
    public T ReadConfig<T>(ModelPart part)
        where T : class
    {
        ArgumentNullException.ThrowIfNull(part);
        var (defaults, resolver) = Architectures.BuiltIn.JsonOf(typeof(T), part.Architecture);
        return (T)ReadConfig(part, config => ConfigJson.Read(config, typeof(T), defaults, resolver));
    }

    /// <summary>Reads the settings of a part with the descriptor of its architecture.</summary>
    internal object ReadConfigOf<TNetwork>(ModelPart part, Architecture<TNetwork> architecture)
        where TNetwork : class => ReadConfig(part, architecture.ReadConfig);

    private object ReadConfig(ModelPart part, Func<JsonElement, object> read)
    {
        try
        {
            return read(part.Config.ValueKind == JsonValueKind.Undefined ? JsonDocument.Parse("{}").RootElement : part.Config);
        }
        catch (Exception exception) when (exception is JsonException or ArgumentException)
        {
            throw new InvalidModelException(
                Path,
                $"the config of its {part.Architecture} in {FileName} is not valid: {exception.Message}",
                exception
            );
        }
    }

    /// <summary>Checks whether a prompt names something that the model knows, if the model has a list of it
    /// (<see cref="ModelDescription.Vocabulary"/>).</summary>
    /// <param name="prompt">The prompt.</param>
    /// <returns>A sentence for the user, with the nearest known names, if the prompt names nothing that the model knows; otherwise null.</returns>
    public string? CheckPrompt(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return _vocabulary.Value?.Check(prompt);
    }

    /// <summary>Converts the configuration record of an architecture to the settings of a part, for use with <see cref="Save"/>. For a custom
    /// architecture in a program without reflection-based JSON, use <see cref="Architecture{TNetwork}.WriteConfig"/>.</summary>
    /// <param name="config">The configuration record.</param>
    public static JsonElement WriteConfig<T>(T config)
        where T : class => ConfigJson.Write(config);

    /// <summary>Gets the path of the weights file of a part of this model.</summary>
    internal string WeightsOf(ModelPart part) =>
        FileOf(part.Weights ?? throw new InvalidModelException(Path, $"its {FileName} names no weights for its {part.Architecture}."));

    /// <summary>Finds the folder of a model by its path, or by its name in one of the folders of models.</summary>
    internal static string Find(string pathOrName, IReadOnlyList<string> folders)
    {
        var path = System.IO.Path.GetFullPath(pathOrName);
        if (File.Exists(System.IO.Path.Combine(path, FileName)))
        {
            return path;
        }

        if (File.Exists(path) && string.Equals(System.IO.Path.GetFileName(path), FileName, StringComparison.Ordinal))
        {
            return System.IO.Path.GetDirectoryName(path)!;
        }

        var isName = pathOrName.AsSpan().IndexOfAny('/', '\\') < 0 && pathOrName is not ("." or "..");
        var found = isName
            ? folders
                .Select(folder => System.IO.Path.Combine(folder, pathOrName))
                .FirstOrDefault(folder => File.Exists(System.IO.Path.Combine(folder, FileName)))
            : null;
        if (found is not null)
        {
            return found;
        }

        if (Directory.Exists(path))
        {
            throw new InvalidModelException(path, $"the folder {WhatElse(path)}; expected a folder with a {FileName}.");
        }

        if (File.Exists(path))
        {
            throw new InvalidModelException(path, $"it is a file; expected a folder with a {FileName}, weights and a tokenizer.");
        }

        var known = folders
            .SelectMany(Directory.GetDirectories)
            .Where(folder => File.Exists(System.IO.Path.Combine(folder, FileName)))
            .Select(folder => System.IO.Path.GetFileName(folder)!)
            .Distinct(StringComparer.Ordinal)
            .Order(StringComparer.Ordinal)
            .ToList();
        throw new InvalidModelException(
            pathOrName,
            $"there is no folder and no built-in model with this name"
                + (
                    folders.Count == 0
                        ? " (no 'models' folder was found"
                        : $" in {string.Join(", ", folders)} (available: {(known.Count == 0 ? "none" : string.Join(", ", known))}"
                )
                + $"). Specify a folder with a {FileName}, or set {Variable} to the folder that contains your models."
                + (pathOrName is "stickers" ? " The package OpenSora.Lib.Stickers contains the model 'stickers'." : "")
        );
    }

    private static ModelDescription Parse(string path, byte[] bytes)
    {
        var options = new JsonDocumentOptions { CommentHandling = JsonCommentHandling.Skip, AllowTrailingCommas = true };
        using var document = JsonDocument.Parse(bytes, options);
        var root = document.RootElement;
        if (
            root.ValueKind != JsonValueKind.Object
            || !root.TryGetProperty("format", out var format)
            || format.ValueKind != JsonValueKind.String
            || !format.ValueEquals(Format)
        )
        {
            throw new InvalidModelException(path, $"its {FileName} does not contain \"format\": \"{Format}\"; it belongs to other software.");
        }

        if (
            !root.TryGetProperty("version", out var element)
            || element.ValueKind != JsonValueKind.Number
            || !element.TryGetInt32(out var version)
            || version < 1
        )
        {
            throw new InvalidModelException(path, $"its {FileName} does not specify a valid version; expected \"version\": {Version}.");
        }

        if (version > Version)
        {
            throw new InvalidModelException(
                path,
                $"its {FileName} has version {version}, but this library supports versions up to {Version}; update the library."
            );
        }

        return DescriptionJson.Read(root);
    }

    private void Check()
    {
        var (video, sampling, diffusion, text) = (Description.Video, Description.Sampling, Description.Diffusion, Description.TextEncoder);
        Expect(Description.Name.Length > 0, "name must not be empty");
        foreach (
            var (name, range) in new[] { ("frames_range", video.FramesRange), ("width_range", video.WidthRange), ("height_range", video.HeightRange) }
        )
        {
            Expect(range.Min >= 1 && range.Max >= range.Min && range.Step >= 1, $"video.{name} must have 1 <= min <= max and step >= 1");
        }

        Expect(video.FramesRange.Contains(video.Frames), $"video.frames is {video.Frames}, but video.frames_range allows {video.FramesRange}");
        Expect(video.WidthRange.Contains(video.Width), $"video.width is {video.Width}, but video.width_range allows {video.WidthRange}");
        Expect(video.HeightRange.Contains(video.Height), $"video.height is {video.Height}, but video.height_range allows {video.HeightRange}");
        Expect(video.Fps is > 0 and <= 1000, $"video.fps is {video.Fps}, but must be greater than 0 and at most 1000");
        // With fewer steps, the last beta of a linear schedule would be 1 or more.
        var fewest = diffusion is { Kind: DiffusionKind.Gaussian, Schedule: NoiseSchedule.Linear } ? 21 : 1;
        Expect(diffusion.Steps >= fewest, $"diffusion.steps is {diffusion.Steps}, but must be at least {fewest}");
        Expect(
            sampling.Steps >= 1 && sampling.Steps <= diffusion.Steps,
            $"sampling.steps is {sampling.Steps}, but must be between 1 and diffusion.steps ({diffusion.Steps})"
        );
        Expect(
            double.IsFinite(sampling.GuidanceScale) && sampling.GuidanceScale >= 0,
            $"sampling.guidance_scale is {sampling.GuidanceScale}, but must be 0 or more"
        );
        Expect(
            (diffusion.Kind == DiffusionKind.RectifiedFlow) == (sampling.Sampler == SamplerKind.RectifiedFlow),
            "diffusion.kind and sampling.sampler are incompatible: "
                + "rectified_flow requires the sampler rectified_flow, gaussian requires any other sampler"
        );
        Expect(sampling.GuidedChannels is null or >= 1, $"sampling.guided_channels is {sampling.GuidedChannels}, but must be at least 1");
        Expect(sampling.Eta is >= 0 and <= 1, $"sampling.eta is {sampling.Eta}, but must be between 0 and 1");
        Expect(text.MaxTokens >= 1, $"text_encoder.max_tokens is {text.MaxTokens}, but must be at least 1");
        foreach (var (name, part) in new[] { ("denoiser", Description.Denoiser), ("vae", Description.Vae), ("preview", Description.Preview) })
        {
            Expect(part?.HasTextSettings != true, $"{name} has a tokenizer, max_tokens or clean_captions, which are settings of text_encoder only");
        }

        string?[] files =
        [
            Description.Denoiser.Weights,
            Description.Vae.Weights,
            Description.Preview?.Weights,
            text.Weights,
            text.Tokenizer,
            Description.LicenseFile,
            Description.Vocabulary,
        ];
        foreach (var file in files.OfType<string>())
        {
            Expect(File.Exists(FileOf(file)), $"the file '{file}' that it names does not exist");
        }

        void Expect(bool condition, string otherwise)
        {
            if (!condition)
            {
                throw new InvalidModelException(Path, $"in its {FileName}, {otherwise}.");
            }
        }
    }

    /// <summary>Gets the path of a file in the folder. Names that refer to files outside the folder are rejected.</summary>
    private string FileOf(string name)
    {
        if (name.Contains('\0', StringComparison.Ordinal))
        {
            throw new InvalidModelException(Path, $"its {FileName} contains a file name with a null character.");
        }

        var full = System.IO.Path.GetFullPath(System.IO.Path.Combine(Path, name));
        if (
            name.Length == 0
            || System.IO.Path.IsPathRooted(name)
            || !full.StartsWith(Path.TrimEnd(System.IO.Path.DirectorySeparatorChar) + System.IO.Path.DirectorySeparatorChar, StringComparison.Ordinal)
        )
        {
            throw new InvalidModelException(Path, $"its {FileName} names the file '{name}', which is outside the folder.");
        }

        return full;
    }

    /// <summary>Recognizes other kinds of folders.</summary>
    private static string WhatElse(string path)
    {
        if (Directory.Exists(System.IO.Path.Combine(path, "transformer")) || File.Exists(System.IO.Path.Combine(path, "model_index.json")))
        {
            return "is a diffusers pipeline, which is not supported";
        }

        var config = System.IO.Path.Combine(path, "config.json");
        var text = File.Exists(config) ? File.ReadAllText(config) : "";
        bool Names(IEnumerable<string> hubNames) => hubNames.Any(name => text.Contains($"\"{name}", StringComparison.OrdinalIgnoreCase));
        var (texts, autoencoders) = (Architectures.BuiltIn.TextEncoders, Architectures.BuiltIn.Autoencoders);
        if (
            Names(texts.SelectMany(known => known.HubNames))
            || texts.Any(known => known.TokenizerFile is { } file && File.Exists(System.IO.Path.Combine(path, file)))
        )
        {
            return "contains a text encoder, not a model";
        }

        if (Names(autoencoders.SelectMany(known => known.HubNames)))
        {
            return "contains an autoencoder, not a model";
        }

        return Directory.EnumerateFiles(path, "*.safetensors").Any() ? "contains weights without a description" : "contains no model";
    }
}
