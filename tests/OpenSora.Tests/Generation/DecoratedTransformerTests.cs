using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>A transformer can be any class, such as one that calls another transformer.</summary>
[Collection(nameof(LiveTensorCount))]
public class DecoratedTransformerTests
{
    [Fact]
    public void A_pipeline_uses_a_transformer_that_is_no_module()
    {
        using var text = new HashTextEncoder();
        using var vae = new TinyVae();
        using var inner = new StdiT(
            new StdiTConfig
            {
                InputSize = [4, 8, 8],
                HiddenSize = 16,
                Depth = 1,
                NumHeads = 2,
                CaptionChannels = HashTextEncoder.States,
                ModelMaxLength = HashTextEncoder.Tokens,
            }
        );
        inner.eval();
        using var counting = new Counting(inner);
        var settings = new GenerationSettings { Seed = 1 };
        var expected = new VideoPipeline(inner, text, vae, new Ddim(3)).Generate(["a goat"], settings)[0];
        var before = TensorCount.Now;

        var video = new VideoPipeline(counting, text, vae, new Ddim(3)).Generate(["a goat"], settings)[0];

        video.Pixels.ToArray().ShouldBe(expected.Pixels.ToArray());
        counting.Calls.ShouldBe(3);
        TensorCount.ShouldBe(before);
    }

    private sealed class Counting(StdiT inner) : IVideoTransformer
    {
        private readonly IVideoTransformer _inner = inner;

        public int Calls { get; private set; }

        public int LatentChannels => _inner.LatentChannels;

        public IReadOnlyList<int> LatentMultiple => _inner.LatentMultiple;

        public bool LearnsVariance => _inner.LearnsVariance;

        public IReadOnlyList<int>? LatentSize => _inner.LatentSize;

        public int TextWidth => _inner.TextWidth;

        public int TextTokens => _inner.TextTokens;

        public bool SupportsNoisyFrames => _inner.SupportsNoisyFrames;

        public double CaptionDropout => _inner.CaptionDropout;

        public Tensor NullCaption(long batch = 1) => _inner.NullCaption(batch);

        public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
        {
            Calls++;
            return _inner.Denoise(x, t, conditions);
        }

        public void Dispose() { }
    }
}
