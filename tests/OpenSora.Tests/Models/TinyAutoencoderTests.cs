using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public sealed class TinyAutoencoderTests : IDisposable
{
    private static readonly TinyAutoencoderConfig Small = new()
    {
        Channels = 8,
        NumEncoderBlocks = [1, 2],
        NumDecoderBlocks = [2, 1],
        MiddleNorm = true,
        MicroBatchSize = 2,
    };

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static TinyAutoencoder Make(TinyAutoencoderConfig config)
    {
        var model = new TinyAutoencoder(config, initialize: false);
        using var generator = new Generator(1);
        model.Initialize(generator);
        return model;
    }

    private static Tensor Video(int batch, int frames, int size)
    {
        using var generator = new Generator(5);
        return rand([batch, 3, frames, size, size], generator: generator) * 2 - 1;
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void The_published_models_have_the_published_parameters_and_names()
    {
        using var taesd = new TinyAutoencoder(TinyAutoencoderConfig.Preset("TAESD"), initialize: false);
        (taesd.LatentChannels, taesd.SpatialFactor, taesd.TemporalFactor).ShouldBe((4, 8, 1));
        taesd.parameters().Sum(parameter => parameter.numel()).ShouldBe(2_445_063);
        var names = taesd.state_dict();
        names["encoder.layers.0.weight"].shape.ShouldBe([64, 3, 3, 3]);
        names.ContainsKey("encoder.layers.2.bias").ShouldBeFalse();
        names["encoder.layers.14.weight"].shape.ShouldBe([4, 64, 3, 3]);
        names["decoder.layers.0.weight"].shape.ShouldBe([64, 4, 3, 3]);
        names["decoder.layers.2.conv.4.bias"].shape.ShouldBe([64]);
        names["decoder.layers.6.weight"].shape.ShouldBe([64, 64, 3, 3]);
        names["decoder.layers.18.weight"].shape.ShouldBe([3, 64, 3, 3]);

        foreach (var (preset, channels) in new[] { ("TAESDXL", 4), ("TAESD3", 16), ("TAEF1", 16), ("TAEF2", 32) })
        {
            TinyAutoencoderConfig.Preset(preset).LatentChannels.ShouldBe(channels);
        }
    }

    [Fact]
    public void Micro_batches_and_scale_do_not_change_the_networks()
    {
        using var scope = NewDisposeScope();
        using var one = Make(Small with { MicroBatchSize = 1 });
        using var scaled = Make(Small with { MicroBatchSize = 100, ScalingFactor = 0.5 });
        var video = Video(2, 3, 8);
        var latents = one.Encode(video);
        latents.shape.ShouldBe([2, 4, 3, 4, 4]);
        Difference(latents, scaled.Encode(video) * 2).ShouldBeLessThan(1e-5);
        using var generator = new Generator(3);
        Difference(latents, one.Encode(video, generator)).ShouldBe(0);
        var decoded = one.Decode(latents);
        decoded.shape.ShouldBe([2, 3, 3, 8, 8]);
        Difference(decoded, scaled.Decode(latents / 2)).ShouldBeLessThan(1e-5);
        Difference(decoded.select(2, 1), one.call(video.select(2, 1))).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Training_learns_to_reconstruct()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            var images = Video(2, 1, 8).squeeze(2);
            using var optimizer = optim.AdamW(model.parameters(), lr: 3e-3);
            var losses = new List<float>();
            for (var step = 0; step < 12; step++)
            {
                using var scope = NewDisposeScope();
                var loss = (model.call(images) - images).square().mean();
                optimizer.zero_grad();
                loss.backward();
                foreach (var (name, parameter) in model.named_parameters())
                {
                    parameter.grad.ShouldNotBeNull(name);
                }

                optimizer.step();
                losses.Add(loss.item<float>());
            }
            losses[^1].ShouldBeLessThan(losses[0] * 0.8f);
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var video = Video(1, 2, 16);
        var latents = model.Encode(video);
        var decoded = model.Decode(latents);
        model.UseComputeType(ScalarType.BFloat16);
        var rough = model.Decode(latents);
        rough.dtype.ShouldBe(ScalarType.Float32);
        Difference(rough, decoded).ShouldBeInRange(1e-6, 0.05);
    }

    [Fact]
    public void Calls_leave_one_tensor_and_no_gradients()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var video = Video(1, 3, 8);
        AutoencoderContract.CallsLeaveOneTensorAndNoGradients(model, video);
    }

    [Fact]
    public void Bad_shapes_and_configurations_are_rejected()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        void Refused(string message, Action call) => Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
        Refused("The video have shape [1, 3, 2, 7, 8]", () => model.Encode(zeros([1, 3, 2, 7, 8])));
        Refused("expected [batch, 4, frames, height, width]", () => model.Decode(zeros([1, 3, 2, 4, 4])));
        Refused("expected [batch, 3, height, width]", () => model.call(zeros([1, 1, 8, 8])));
        Refused("NumEncoderBlocks has 1 levels and NumDecoderBlocks has 2", () => new TinyAutoencoder(Small with { NumEncoderBlocks = [1] }));
        Refused("NumDecoderBlocks is []", () => new TinyAutoencoder(Small with { NumDecoderBlocks = [] }));
        Refused("Channels is 0", () => new TinyAutoencoder(Small with { Channels = 0 }));
        Refused("ScalingFactor is NaN", () => new TinyAutoencoder(Small with { ScalingFactor = double.NaN }));
        Refused("Known are TAESD", () => TinyAutoencoderConfig.Preset("TAESD9"));
    }
}
