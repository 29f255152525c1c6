using OpenSora.Models;
using OpenSora.Weights;
using static TorchSharp.torch;

namespace OpenSora.Goldens;

/// <summary>T5's encoder.</summary>
internal static class T5Goldens
{
    public static IEnumerable<Comparison> Check(GoldenFile file)
    {
        using var noGradients = no_grad();
        var config = file.ConfigAs<T5Config>();
        var model = file.Load(new T5TextEncoder(config, initialize: false), ignore: "encoder.embed_tokens.weight");
        if (file.Has("output.relative_position_bucket"))
        {
            var buckets = file["input.relative_position"].data<long>().Select(position => T5TextEncoder.Bucket((int)position, config)).ToArray();
            yield return file.Compare("output.relative_position_bucket", tensor(buckets));
        }
        var ids = file["input.input_ids"];
        if (file.Has("mid.position_bias"))
        {
            yield return file.Compare("mid.position_bias", model.PositionBias(ids.shape[1]));
        }

        yield return file.Compare("output.last_hidden_state", model.call(ids, file.Optional("input.attention_mask")));
    }
}
