using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using OpenSora.Weights;

namespace OpenSora.ModelFolders;

/// <summary>A folder cannot be used as a model.</summary>
/// <param name="path">The folder, or the name that was looked for.</param>
/// <param name="reason">What was wrong, what was expected and what to do.</param>
/// <param name="innerException">The cause.</param>
public sealed class InvalidModelException(string path, string reason, Exception? innerException = null)
    : Exception($"'{path}' cannot be used as a model: {reason}", innerException)
{
    /// <summary>The folder, or the name that was looked for.</summary>
    public string Path { get; } = path;

    /// <summary>What was wrong.</summary>
    public string Reason { get; } = reason;
}

/// <summary>A model on disk: <c>model.json</c> beside weights and tokenizer. The format is described in docs/model-folders.md.</summary>
public sealed class ModelFolder
{
    /// <summary>The description's file name.</summary>
    public const string FileName = "model.json";

    /// <summary>The name that every description carries.</summary>
    public const string Format = "opensora-model";

    /// <summary>The newest version of the format that is read, and the one that is written.</summary>
    public const int Version = 1;

    /// <summary>The environment variable with folders of models, separated as in PATH.</summary>
    public const string Variable = "OPENSORA_MODELS";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
        ReadCommentHandling = JsonCommentHandling.Skip,
        AllowTrailingCommas = true,
        WriteIndented = true,
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false) },
    };

    private ModelFolder(string path, ModelDescription description)
    {
        Path = path;
        Description = description;
    }

    /// <summary>The folder.</summary>
    public string Path { get; }

    /// <summary>What <c>model.json</c> says.</summary>
    public ModelDescription Description { get; }

    /// <summary>The denoiser's weights.</summary>
    public string DenoiserWeights => WeightsOf(Description.Denoiser);

    /// <summary>The autoencoder's weights.</summary>
    public string VaeWeights => WeightsOf(Description.Vae);

    /// <summary>The text encoder's weights.</summary>
    public string TextEncoderWeights => WeightsOf(Description.TextEncoder);

    /// <summary>The tokenizer's model file.</summary>
    /// <exception cref="InvalidModelException">The description names none.</exception>
    public string Tokenizer =>
        FileOf(
            Description.TextEncoder.Tokenizer
                ?? throw new InvalidModelException(
                    Path,
                    $"its {FileName} names no tokenizer; a text encoder {Description.TextEncoder.Architecture} needs one."
                )
        );

    /// <summary>The folders in which built-in models are looked for, in order: those of <see cref="Variable"/>, <c>models</c> beside the program,
    /// and <c>models</c> in the folders above the program and above the current folder.</summary>
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

    /// <summary>Opens a model and checks its description and that its files are there.</summary>
    /// <param name="pathOrName">A folder with a <c>model.json</c>, or the name of a built-in model.</param>
    /// <exception cref="InvalidModelException">There is no such model, the folder is something else, or its description is invalid.</exception>
    public static ModelFolder Open(string pathOrName)
    {
        ArgumentException.ThrowIfNullOrEmpty(pathOrName);
        var path = Find(pathOrName);
        ModelDescription description;
        try
        {
            description = Parse(path, File.ReadAllBytes(System.IO.Path.Combine(path, FileName)));
        }
        catch (JsonException exception)
        {
            throw new InvalidModelException(path, $"its {FileName} is not valid: {exception.Message}", exception);
        }

        var folder = new ModelFolder(path, description);
        folder.Check();
        return folder;
    }

    /// <summary>Writes <c>model.json</c> into a folder, under a temporary name first, and opens the model.</summary>
    /// <param name="path">The folder, with the files that the description names.</param>
    /// <param name="description">What to write.</param>
    /// <exception cref="InvalidModelException">The description contradicts itself or names files that are not there. Nothing is written
    /// then.</exception>
    /// <exception cref="IOException">The file could not be written.</exception>
    public static ModelFolder Save(string path, ModelDescription description)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        ArgumentNullException.ThrowIfNull(description);
        path = System.IO.Path.GetFullPath(path);
        var folder = new ModelFolder(path, description with { Format = Format, Version = Version });
        folder.Check();
        AtomicFile.Write(System.IO.Path.Combine(path, FileName), stream => JsonSerializer.Serialize(stream, folder.Description, Json));
        return folder;
    }

    /// <summary>Reads a part's settings.</summary>
    /// <typeparam name="T">The architecture's config record; its members are in snake case in the file.</typeparam>
    /// <param name="part">A part of this model.</param>
    /// <exception cref="InvalidModelException">The settings do not fit the record: unknown, missing or of the wrong type.</exception>
    public T ReadConfig<T>(ModelPart part)
        where T : class => (T)ReadConfig(part, typeof(T));

    /// <summary>Reads a part's settings as a record of the given type.</summary>
    internal object ReadConfig(ModelPart part, Type type)
    {
        ArgumentNullException.ThrowIfNull(part);
        try
        {
            var config = part.Config.ValueKind == JsonValueKind.Undefined ? JsonSerializer.SerializeToElement(new JsonObject()) : part.Config;
            return config.Deserialize(type, Json) ?? throw new JsonException("It is null.");
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

    /// <summary>Makes a part's settings for <see cref="Save"/> of an architecture's config record.</summary>
    /// <param name="config">The record.</param>
    public static JsonElement WriteConfig<T>(T config)
        where T : class => JsonSerializer.SerializeToElement(config, Json);

    /// <summary>The weights of a part of this model.</summary>
    internal string WeightsOf(ModelPart part) =>
        FileOf(part.Weights ?? throw new InvalidModelException(Path, $"its {FileName} names no weights of its {part.Architecture}."));

    private static string Find(string pathOrName)
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

        var folders = SearchFolders;
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
            throw new InvalidModelException(path, $"it is a file; expected a folder with a {FileName}, its weights and its tokenizer.");
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
            $"there is no such folder, and no built-in model of that name"
                + (
                    folders.Count == 0
                        ? " (no folder 'models' was found either"
                        : $" in {string.Join(", ", folders)} (there are: {(known.Count == 0 ? "none" : string.Join(", ", known))}"
                )
                + $"). Give a folder with a {FileName}, or set {Variable} to the folder that holds your models."
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
            throw new InvalidModelException(path, $"its {FileName} does not say \"format\": \"{Format}\"; it belongs to other software.");
        }

        if (
            !root.TryGetProperty("version", out var element)
            || element.ValueKind != JsonValueKind.Number
            || !element.TryGetInt32(out var version)
            || version < 1
        )
        {
            throw new InvalidModelException(path, $"its {FileName} does not say its version; expected \"version\": {Version}.");
        }

        if (version > Version)
        {
            throw new InvalidModelException(
                path,
                $"its {FileName} is of version {version}, but this library reads versions up to {Version}; update the library."
            );
        }

        return root.Deserialize<ModelDescription>(Json) ?? throw new JsonException("It is null.");
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
        Expect(video.Fps is > 0 and <= 1000, $"video.fps is {video.Fps}, but must be above 0 and at most 1000");
        var fewest = diffusion is { Kind: DiffusionKind.Gaussian, Schedule: NoiseSchedule.Linear } ? 21 : 1; // with fewer, a linear schedule's last step would leave less than nothing
        Expect(diffusion.Steps >= fewest, $"diffusion.steps is {diffusion.Steps}, but must be at least {fewest}");
        Expect(
            sampling.Steps >= 1 && sampling.Steps <= diffusion.Steps,
            $"sampling.steps is {sampling.Steps}, but must be from 1 to diffusion.steps ({diffusion.Steps})"
        );
        Expect(
            double.IsFinite(sampling.GuidanceScale) && sampling.GuidanceScale >= 0,
            $"sampling.guidance_scale is {sampling.GuidanceScale}, but must be 0 or more"
        );
        Expect(
            (diffusion.Kind == DiffusionKind.RectifiedFlow) == (sampling.Sampler == SamplerKind.RectifiedFlow),
            "diffusion.kind and sampling.sampler do not go together: rectified_flow is sampled by rectified_flow, gaussian by any other"
        );
        Expect(sampling.GuidedChannels is null or >= 1, $"sampling.guided_channels is {sampling.GuidedChannels}, but must be at least 1");
        Expect(sampling.Eta is >= 0 and <= 1, $"sampling.eta is {sampling.Eta}, but must be from 0 to 1");
        Expect(text.MaxTokens >= 1, $"text_encoder.max_tokens is {text.MaxTokens}, but must be at least 1");
        string?[] files = [Description.Denoiser.Weights, Description.Vae.Weights, text.Weights, text.Tokenizer, Description.Licence.File];
        foreach (var file in files.OfType<string>())
        {
            Expect(File.Exists(FileOf(file)), $"the file '{file}' that it names is not there");
        }

        void Expect(bool condition, string otherwise)
        {
            if (!condition)
            {
                throw new InvalidModelException(Path, $"in its {FileName}, {otherwise}.");
            }
        }
    }

    /// <summary>The path of a file in the folder; names that lead out of it are refused.</summary>
    private string FileOf(string name)
    {
        if (name.Contains('\0', StringComparison.Ordinal))
        {
            throw new InvalidModelException(Path, $"its {FileName} names a file with a zero character in its name.");
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

    /// <summary>Recognises folders of other kinds.</summary>
    private static string WhatElse(string path)
    {
        if (Directory.Exists(System.IO.Path.Combine(path, "transformer")) || File.Exists(System.IO.Path.Combine(path, "model_index.json")))
        {
            return "is a pipeline of diffusers, which is not read";
        }

        var config = System.IO.Path.Combine(path, "config.json");
        var text = File.Exists(config) ? File.ReadAllText(config) : "";
        if (
            text.Contains("T5", StringComparison.Ordinal)
            || text.Contains("\"t5\"", StringComparison.Ordinal)
            || File.Exists(System.IO.Path.Combine(path, "spiece.model"))
        )
        {
            return "is a text encoder's, not a model's";
        }

        if (text.Contains("Autoencoder", StringComparison.Ordinal))
        {
            return "is an autoencoder's, not a model's";
        }

        return Directory.EnumerateFiles(path, "*.safetensors").Any() ? "holds weights, but nothing says what they are" : "holds no model";
    }
}
