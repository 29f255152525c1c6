using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

[Collection(nameof(LiveTensorCount))]
public class VideoPipelineTests
{
    [Fact]
    public void A_transformer_needs_neither_weights_nor_a_module()
    {
        using var text = new HashTextEncoder();
        using var vae = new TinyVae();
        using var transformer = new NoNoise();
        var before = TensorCount.Now;

        var video = new VideoPipeline(transformer, text, vae, new RectifiedFlow(samplingSteps: 3)).Generate(["a goat"])[0];

        (video.Count, video.Width, video.Height).ShouldBe((2, 32, 32));
        transformer.Devices.ShouldBe([DeviceType.CPU, DeviceType.CPU, DeviceType.CPU]);
        TensorCount.ShouldBe(before);
    }

    private sealed class NoNoise : IVideoTransformer
    {
        public List<DeviceType> Devices { get; } = [];

        public int LatentChannels => 4;

        public IReadOnlyList<int> LatentMultiple => [1, 1, 1];

        public IReadOnlyList<int> LatentSize => [2, 8, 8];

        public int TextWidth => HashTextEncoder.States;

        public int TextTokens => HashTextEncoder.Tokens;

        public bool SupportsNoisyFrames => false;

        public double CaptionDropout => 0;

        public Tensor NullCaption(long batch = 1) => zeros(batch, TextTokens, TextWidth);

        public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions)
        {
            Devices.Add(x.device_type);
            return zeros_like(x);
        }

        public void Dispose() { }
    }
}
