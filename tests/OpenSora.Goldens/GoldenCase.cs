using System.Text.Json;
using OpenSora.Models;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Finds what checks a recorded case: by the first words of its file's name, the longest that match.</summary>
public static class GoldenCase
{
    private sealed record Kind(Func<GoldenFile, IEnumerable<Comparison>> Check, Type? Model, string[] Options);

    // What a case's configuration may say: the properties of a model's configuration record, at the top or under "model", and the options that the
    // check honours.
    private static readonly Dictionary<string, Kind> Kinds = new(StringComparer.Ordinal)
    {
        ["stdit_"] = Model<StdiTConfig>(StdiTGoldens.Check),
        ["stdit2_"] = Model<StdiT2Config>(MultiResolutionGoldens.CheckStdiT2, "input_size"),
        ["stdit3_"] = Model<StdiT3Config>(MultiResolutionGoldens.CheckStdiT3, "input_size"),
        ["dit_"] = Model<DiTConfig>(DiTGoldens.Check, "condition", "learn_sigma"),
        ["orig_dit"] = Other(DiTGoldens.CheckOfficial, [.. Official, "num_classes"]),
        ["latte_"] = Model<DiTConfig>(DiTGoldens.CheckLatte, "condition", "learn_sigma"),
        ["orig_latte"] = Other(DiTGoldens.CheckOfficialLatte, [.. Official, "num_classes", "num_frames", "extras"]),
        ["pixart_"] = Model<StdiTConfig>(PixArtGoldens.Check),
        ["pixartms_"] = Model<StdiTConfig>(PixArtGoldens.CheckSizes),
        ["orig_pixart"] = Other(
            PixArtGoldens.CheckOfficial,
            [.. Official, "caption_channels", "model_max_length", "lewei_scale", "into_opensora_pixart", "into_stdit"]
        ),
        ["dpm_"] = Other(DiffusionGoldens.Check, [.. Process, "algorithm_type", "method", "order", "skip_type"]),
        ["iddpm_"] = Other(DiffusionGoldens.Check, [.. Process, "sampler", "eta", "clip_denoised", "full", "steps10", "steps20", "steps100"]),
        ["iddpm_v11"] = Other(DiffusionGoldens.CheckFrames, Process),
        ["mask_strategy"] = Other(MaskStrategyGoldens.Check, "align", "loop_i", "strategies"),
        ["rflow_"] = Other(RectifiedFlowGoldens.Check, [.. Process, "num_timesteps", "use_timestep_transform", "cases"]),
        ["e2e_stdit_"] = Model<StdiTConfig>(EndToEndGoldens.Check, [.. Process, "sampler"]),
        ["e2e_stdit3_"] = Model<StdiT3Config>(EndToEndGoldens.CheckFlow, [.. Process, "input_size", "num_timesteps", "use_timestep_transform"]),
        ["layers"] = Other(LayersGoldens.Check, "attn_tokens", "caption_channels", "heads", "hidden", "patch", "token_num"),
        ["pos_embed"] = Other(LayersGoldens.CheckPositions, "one_d", "two_d"),
        ["train_step_stdit"] = Model<StdiTConfig>(TrainStepGoldens.Check, "clip_grad_norm", "ema_decay", "lr", "optimizer"),
        ["vae_"] = Model<AutoencoderKLConfig>(VaeGoldens.Check, "out_channels"),
        ["vae_video"] = Model<AutoencoderKLConfig>(VaeGoldens.CheckVideo, "out_channels"),
        ["clip_"] = Model<ClipTextConfig>(ClipGoldens.Check),
        ["svd_"] = Model<AutoencoderKLConfig>(SvdVaeGoldens.Check, "out_channels"),
        ["taesd_"] = Model<TinyAutoencoderConfig>(TinyVaeGoldens.Check),
        ["taef2_photo"] = Model<TinyAutoencoderConfig>(TinyVaeGoldens.CheckPhoto, "image", "crop", "arch_variant", "image_range"),
        ["t5_"] = Model<T5Config>(T5Goldens.Check),
        ["t5_text"] = Other(CaptionGoldens.Check),
        ["caption_"] = Other(CaptionGoldens.Check),
    };

    private static string[] Official =>
        ["cfg_scale", "depth", "hidden_size", "in_channels", "input_size", "num_heads", "patch_size", "into_opensora"];

    private static string[] Process =>
        ["model", "diffusion_steps", "noise_schedule", "timestep_respacing", "num_sampling_steps", "cfg_scale", "cfg_channel"];

    private static Kind Model<TConfig>(Func<GoldenFile, IEnumerable<Comparison>> check, params string[] options) =>
        new(
            check,
            typeof(TConfig),
            ["model", "class_", .. options, .. typeof(TConfig).GetProperties().Select(p => JsonNamingPolicy.SnakeCaseLower.ConvertName(p.Name))]
        );

    private static Kind Other(Func<GoldenFile, IEnumerable<Comparison>> check, params string[] options) => new(check, null, options);

    /// <summary>The cases in a folder and the folders in it. A trained model's weights lie beside its case and are none.</summary>
    public static IEnumerable<string> Find(string folder) =>
        Directory
            .EnumerateFiles(folder, "*", SearchOption.AllDirectories)
            .Where(path =>
                Path.GetExtension(path) is ".safetensors" or ".json"
                && !path.EndsWith("_encoder.safetensors", StringComparison.Ordinal)
                && !path.EndsWith("_decoder.safetensors", StringComparison.Ordinal)
            )
            .Order(StringComparer.Ordinal);

    /// <summary>Checks one file.</summary>
    /// <exception cref="NotSupportedException">The kind of the case is unknown, or an option that it was recorded with.</exception>
    public static IReadOnlyList<Comparison> Check(string path)
    {
        var name = Path.GetFileName(path);
        var kind = Kinds.Keys.Where(kind => name.StartsWith(kind, StringComparison.Ordinal)).MaxBy(kind => kind.Length)
            ?? throw new NotSupportedException("a case of this kind");
        using var scope = NewDisposeScope();
        using var file = new GoldenFile(path);
        var options = Options(file.Config);
        if (Kinds[kind].Model is not null && file.Config.TryGetProperty("model", out var model))
        {
            options = options.Concat(Options(model));
        }

        if (options.Except(Kinds[kind].Options, StringComparer.Ordinal).ToList() is { Count: > 0 } unknown)
        {
            throw new NotSupportedException($"the option {string.Join(", ", unknown)}");
        }

        return Kinds[kind].Check(file).ToList();
    }

    private static IEnumerable<string> Options(JsonElement config) =>
        config.ValueKind == JsonValueKind.Object ? config.EnumerateObject().Select(property => property.Name) : [];
}
