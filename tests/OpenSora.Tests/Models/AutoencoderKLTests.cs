using OpenSora.Models;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Models;

public class AutoencoderKLTests
{
    private static readonly AutoencoderKLConfig Small = new()
    {
        BlockOutChannels = [8, 16],
        LayersPerBlock = 1,
        NormNumGroups = 4,
        MicroBatchSize = 2,
    };

    private static AutoencoderKL Make(AutoencoderKLConfig config, long seed = 1)
    {
        var model = new AutoencoderKL(config, initialize: false);
        using var generator = new Generator((ulong)seed);
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
    public void The_published_model_has_the_published_parameter_count()
    {
        using var model = new AutoencoderKL(new AutoencoderKLConfig(), initialize: false);
        model.parameters().Sum(parameter => parameter.numel()).ShouldBe(83_653_863);
        (model.LatentChannels, model.SpatialFactor, model.TemporalFactor).ShouldBe((4, 8, 1));
    }

    [Fact]
    public void Old_names_map_to_the_same_parameters()
    {
        using var model = Make(Small);
        var names = model.state_dict().Keys.ToList();
        var old = names
            .Select(name =>
                !name.Contains("attentions.0.to_", StringComparison.Ordinal)
                    ? name
                    : name.Replace("to_q", "query").Replace("to_k", "key").Replace("to_v", "value").Replace("to_out.0", "proj_attn")
            )
            .ToList();
        old.Except(names).Count().ShouldBe(16);
        old.Select(KeyMaps.StableDiffusionVae()).ShouldBe(names);
        names.Select(KeyMaps.StableDiffusionVae()).ShouldBe(names);
    }

    [Fact]
    public void Micro_batches_do_not_change_anything()
    {
        using var scope = NewDisposeScope();
        using var one = Make(Small with { MicroBatchSize = 1 });
        using var all = Make(Small with { MicroBatchSize = 100 });
        var video = Video(2, 3, 8);
        var latents = one.Encode(video);
        latents.shape.ShouldBe([2, 4, 3, 4, 4]);
        Difference(latents, all.Encode(video)).ShouldBeLessThan(1e-5);
        var decoded = one.Decode(latents);
        decoded.shape.ShouldBe([2, 3, 3, 8, 8]);
        Difference(decoded, all.Decode(latents)).ShouldBeLessThan(1e-5);
        // a frame does not depend on the other ones
        Difference(latents.narrow(2, 1, 1), all.Encode(video.narrow(2, 1, 1))).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void With_a_generator_samples_are_reproducible_and_without_one_the_mean_is_used()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var video = Video(1, 3, 8);
        Tensor Sample(ulong seed)
        {
            using var generator = new Generator(seed);
            return model.Encode(video, generator);
        }
        Difference(Sample(1), Sample(1)).ShouldBe(0);
        Difference(Sample(1), Sample(2)).ShouldBeGreaterThan(1e-3);
        Difference(model.Encode(video), model.Encode(video)).ShouldBe(0);
        var mean = model.EncodeImages(video.select(2, 0)).Mean * 0.18215;
        Difference(model.Encode(video).select(2, 0), mean).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Training_learns_to_reconstruct()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            using var generator = new Generator(2);
            model.NoiseGenerator = generator;
            var images = Video(2, 1, 8).squeeze(2);
            using var optimizer = optim.AdamW(model.parameters(), lr: 3e-3);
            var losses = new List<float>();
            for (var step = 0; step < 12; step++)
            {
                using var scope = NewDisposeScope();
                var output = model.call(images);
                var loss =
                    (output.Reconstruction - images).square().mean()
                    + (output.Mean.square() + output.LogVariance.exp() - output.LogVariance).mean() * 1e-6;
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
            model.eval();
            Difference(model.call(images).Reconstruction, model.call(images).Reconstruction).ShouldBe(0);
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var video = Video(1, 2, 16);
        var (latents, decoded) = (model.Encode(video), model.Decode(model.Encode(video)));
        model.UseComputeType(ScalarType.BFloat16);
        var rough = model.Decode(latents);
        rough.dtype.ShouldBe(ScalarType.Float32);
        (Difference(rough, decoded) / decoded.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.05);
        (Difference(model.Encode(video), latents) / latents.abs().max().item<float>()).ShouldBeInRange(1e-6, 0.05);
        model.call(video.select(2, 0)).Reconstruction.square().mean().backward();
        model.parameters().ShouldAllBe(parameter => parameter.grad!.dtype == ScalarType.Float32);
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
        Refused("multiples of 2", () => model.Encode(zeros([1, 3, 2, 7, 8])));
        Refused("expected [batch, 3, frames, height, width]", () => model.Encode(zeros([1, 3, 8, 8])));
        Refused("expected [batch, 4, frames, height, width]", () => model.Decode(zeros([1, 3, 2, 4, 4])));
        Refused("expected [batch, 3, height, width]", () => model.call(zeros([1, 1, 8, 8])));
        Refused("24, which is not a positive multiple of NormNumGroups 32", () => new AutoencoderKL(new() { BlockOutChannels = [24] }));
        Refused("BlockOutChannels is empty", () => new AutoencoderKL(new() { BlockOutChannels = [] }));
        Refused("ScalingFactor is 0", () => new AutoencoderKL(Small with { ScalingFactor = 0 }));
        Refused("MicroBatchSize is 0", () => new AutoencoderKL(Small with { MicroBatchSize = 0 }));
    }
}
