using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class SvdTemporalDecoderTests
{
    private static readonly AutoencoderKLConfig Small = new()
    {
        BlockOutChannels = [8, 16],
        LayersPerBlock = 2,
        NormNumGroups = 4,
        MicroBatchSize = 2,
    };

    private static AutoencoderKLTemporalDecoder Make(AutoencoderKLConfig config)
    {
        var model = new AutoencoderKLTemporalDecoder(config, initialize: false);
        using var generator = new Generator(1);
        model.Initialize(generator);
        return model;
    }

    private static Tensor Random(params long[] shape)
    {
        using var generator = new Generator(5);
        return rand(shape, generator: generator) * 2 - 1;
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void The_published_model_has_the_published_parameters_and_names()
    {
        using var model = new AutoencoderKLTemporalDecoder(new AutoencoderKLConfig(), initialize: false);
        (model.LatentChannels, model.SpatialFactor, model.TemporalFactor).ShouldBe((4, 8, 1));
        model.parameters().Sum(parameter => parameter.numel()).ShouldBe(97_742_847);
        var names = model.state_dict();
        names["decoder.mid_block.resnets.1.temporal_res_block.conv2.weight"].shape.ShouldBe([512, 512, 3, 1, 1]);
        names["decoder.up_blocks.2.resnets.0.spatial_res_block.conv_shortcut.weight"].shape.ShouldBe([256, 512, 1, 1]);
        names["decoder.up_blocks.3.resnets.2.time_mixer.mix_factor"].shape.ShouldBe([1]);
        names["decoder.up_blocks.0.upsamplers.0.conv.bias"].shape.ShouldBe([512]);
        names["decoder.time_conv_out.weight"].shape.ShouldBe([3, 3, 3, 1, 1]);
        names.Keys.ShouldNotContain(name => name.StartsWith("post_quant_conv", StringComparison.Ordinal));
    }

    [Fact]
    public void It_encodes_like_the_image_autoencoder()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        using var pictures = new AutoencoderKL(Small, initialize: false);
        using (no_grad())
        {
            var weights = model.state_dict();
            foreach (var (name, target) in pictures.state_dict())
            {
                if (name.StartsWith("encoder.", StringComparison.Ordinal) || name.StartsWith("quant_conv.", StringComparison.Ordinal))
                {
                    target.copy_(weights[name]);
                }
            }
        }
        var video = Random(2, 3, 3, 8, 8);
        Difference(model.Encode(video), pictures.Encode(video)).ShouldBe(0);
        using Generator one = new(4),
            two = new(4);
        Difference(model.Encode(video, one), pictures.Encode(video, two)).ShouldBe(0);
    }

    [Fact]
    public void Frames_of_a_chunk_see_each_other_and_no_others()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var latents = Random(2, 4, 5, 4, 4);
        model.DecodeChunkSize = 3;
        var decoded = model.Decode(latents);
        decoded.shape.ShouldBe([2, 3, 5, 8, 8]);
        var changed = latents.clone();
        changed.narrow(2, 0, 1).mul_(-1);
        var others = model.Decode(changed);
        Difference(decoded.narrow(2, 1, 2), others.narrow(2, 1, 2)).ShouldBeGreaterThan(1e-4);
        Difference(decoded.narrow(2, 3, 2), others.narrow(2, 3, 2)).ShouldBe(0);
        // nor videos each other
        Difference(decoded.narrow(0, 1, 1), model.Decode(latents.narrow(0, 1, 1))).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Without_temporal_mixing_frames_are_decoded_independently()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        using (no_grad())
        {
            foreach (var (name, parameter) in model.named_parameters().Where(pair => pair.name.EndsWith("mix_factor", StringComparison.Ordinal)))
            {
                parameter.fill_(-200);
            }

            var last = model.state_dict()["decoder.time_conv_out.weight"]; // the middle frame alone
            last.zero_();
            last.select(2, 1).select(2, 0).select(2, 0).copy_(eye(3));
        }
        var latents = Random(1, 4, 3, 4, 4);
        var together = model.Decode(latents);
        model.DecodeChunkSize = 1;
        Difference(together, model.Decode(latents)).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Gradients_reach_every_parameter_of_the_decoder()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            model.call(Random(1, 4, 3, 4, 4)).square().mean().backward();
            foreach (var (name, parameter) in model.named_parameters().Where(pair => pair.name.StartsWith("decoder.", StringComparison.Ordinal)))
            {
                parameter.grad.ShouldNotBeNull(name);
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var latents = Random(1, 4, 3, 4, 4);
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
        model.DecodeChunkSize = 2;
        var video = Random(1, 3, 3, 8, 8);
        AutoencoderContract.CallsLeaveOneTensorAndNoGradients(model, video);
    }

    [Fact]
    public void Bad_shapes_and_sizes_are_rejected()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        void Refused(string message, Action call) => Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
        Refused("The video have shape [1, 3, 2, 7, 8]", () => model.Encode(zeros([1, 3, 2, 7, 8])));
        Refused("expected [batch, 4, frames, height, width]", () => model.Decode(zeros([1, 3, 2, 4, 4])));
        Refused("expected [batch, 4, frames, height, width]", () => model.call(zeros([1, 4, 8, 8])));
        Refused("BlockOutChannels contains 24", () => new AutoencoderKLTemporalDecoder(new() { BlockOutChannels = [24] }));
        Should.Throw<ArgumentOutOfRangeException>(() => model.DecodeChunkSize = 0);
    }
}
