using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>CLIP's text encoder.</summary>
internal static class ClipGoldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var model = file.Load(new ClipTextModel(file.ConfigAs<ClipTextConfig>(), initialize: false));
        var output = model.call(file["input.input_ids"]);
        yield return file.Compare("output.states", output.States);
        yield return file.Compare("output.pooled", output.Pooled);
        if (file.Has("output.projected"))
        {
            yield return file.Compare("output.projected", output.Projected!);
        }
    }
}
