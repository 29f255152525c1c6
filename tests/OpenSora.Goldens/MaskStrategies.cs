using OpenSora.Diffusion;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>Frames of references in the noise, and the mask of the remaining noise.</summary>
internal static class MaskStrategyGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        var (config, z) = (file.Config, file["input.z"]);
        int? align = config.GetProperty("align") is { ValueKind: System.Text.Json.JsonValueKind.Number } number ? number.GetInt32() : null;
        var (latents, shares) = (new List<Tensor>(), new List<Tensor>());
        foreach (var (i, text) in config.GetProperty("strategies").EnumerateArray().Index())
        {
            var references = Enumerable
                .Range(0, int.MaxValue)
                .Select(j => file.Optional($"input.ref_{i}_{j}"))
                .TakeWhile(reference => reference is not null)
                .OfType<Tensor>()
                .ToList();
            var (video, share) = MaskStrategy.Apply(
                z[i],
                references,
                MaskStrategy.Parse(text.GetString()!),
                config.GetProperty("loop_i").GetInt32(),
                align
            );
            latents.Add(video);
            shares.Add(share);
        }
        yield return file.Compare("output.z", stack(latents), 0);
        yield return file.Compare("output.masks", stack(shares), 0);
    }
}
