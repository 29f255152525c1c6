using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Finds what checks a recorded case: by the first words of its file's name, the longest that match.</summary>
public static class GoldenCase
{
    private static readonly Dictionary<string, Func<GoldenFile, IEnumerable<Comparison>>?> Kinds = new(StringComparer.Ordinal)
    {
        ["stdit_"] = StditGoldens.Check,
        ["stdit2_"] = MultiResolutionGoldens.CheckStdit2,
        ["stdit3_"] = MultiResolutionGoldens.CheckStdit3,
        ["dit_"] = DitGoldens.Check,
        ["orig_dit"] = DitGoldens.CheckOfficial,
        ["latte_"] = DitGoldens.CheckLatte,
        ["orig_latte"] = DitGoldens.CheckOfficialLatte,
        ["pixart_"] = PixArtGoldens.Check,
        ["pixartms_"] = PixArtGoldens.CheckSizes,
        ["orig_pixart"] = PixArtGoldens.CheckOfficial,
        ["dpm_"] = DiffusionGoldens.Check,
        ["iddpm_"] = DiffusionGoldens.Check,
        ["iddpm_v11"] = DiffusionGoldens.CheckFrames,
        ["mask_strategy"] = MaskStrategyGoldens.Check,
        ["rflow_"] = RectifiedFlowGoldens.Check,
        ["e2e_stdit_"] = EndToEndGoldens.Check,
        ["e2e_stdit3_"] = EndToEndGoldens.CheckFlow,
        ["layers"] = LayersGoldens.Check,
        ["pos_embed"] = LayersGoldens.CheckPositions,
        ["train_step_stdit"] = TrainStepGoldens.Check,
        ["vae_"] = VaeGoldens.Check,
        ["vae_video"] = VaeGoldens.CheckVideo,
        ["clip_"] = ClipGoldens.Check,
        ["svd_"] = SvdVaeGoldens.Check,
        ["taesd_"] = TinyVaeGoldens.Check,
        ["taef2_photo"] = TinyVaeGoldens.CheckPhoto,
        ["t5_"] = T5Goldens.Check,
        ["t5_text"] = CaptionGoldens.Check,
        ["caption_"] = CaptionGoldens.Check,
    };

    /// <summary>The cases in a folder and the folders in it. A trained model's weights lie beside its case and are none.</summary>
    public static IEnumerable<string> Find(string folder) => Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)
        .Where(path => Path.GetExtension(path) is ".safetensors" or ".json" && !path.EndsWith("_encoder.safetensors", StringComparison.Ordinal)
            && !path.EndsWith("_decoder.safetensors", StringComparison.Ordinal)).Order(StringComparer.Ordinal);

    /// <summary>Checks one file.</summary>
    /// <returns>A comparison a tensor, or null where the kind of case is not supported yet.</returns>
    public static IReadOnlyList<Comparison>? Check(string path)
    {
        var name = Path.GetFileName(path);
        var kind = Kinds.Keys.Where(kind => name.StartsWith(kind, StringComparison.Ordinal)).MaxBy(kind => kind.Length);
        if (kind is null || Kinds[kind] is not { } check)
            return null;
        using var scope = NewDisposeScope();
        using var file = new GoldenFile(path);
        return check(file).ToList();
    }
}
