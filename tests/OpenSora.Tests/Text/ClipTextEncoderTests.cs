using OpenSora.Models;
using OpenSora.Models.Layers;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Text;

public sealed class ClipTextEncoderTests : IDisposable
{
    private static readonly string Tokenizer = TestFiles.Data("clip");

    private static readonly ClipTextConfig Small = new()
    {
        VocabSize = 654,
        HiddenSize = 16,
        IntermediateSize = 32,
        NumHiddenLayers = 2,
        NumAttentionHeads = 4,
        MaxPositionEmbeddings = 12,
        ProjectionDim = 6,
        EosTokenId = 653,
    };

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static ClipTextModel Make(ClipTextConfig config)
    {
        var model = new ClipTextModel(config, initialize: false);
        using var generator = new Generator(1);
        model.Initialize(generator);
        return model;
    }

    private static double Difference(Tensor a, Tensor b) => (a - b).abs().max().item<float>();

    [Fact]
    public void The_published_model_has_the_published_parameters_and_names()
    {
        using var model = new ClipTextModel(ClipTextConfig.Preset("ViT-B/32") with { ProjectionDim = 512 }, initialize: false);
        model.parameters().Sum(parameter => parameter.numel()).ShouldBe(63_165_952 + 512 * 512);
        var names = model.state_dict();
        names.Count.ShouldBe(2 + 12 * 16 + 2 + 1);
        names["text_model.embeddings.token_embedding.weight"].shape.ShouldBe([49408, 512]);
        names["text_model.embeddings.position_embedding.weight"].shape.ShouldBe([77, 512]);
        names["text_model.encoder.layers.11.self_attn.out_proj.bias"].shape.ShouldBe([512]);
        names["text_model.encoder.layers.0.mlp.fc1.weight"].shape.ShouldBe([2048, 512]);
        names["text_model.final_layer_norm.weight"].shape.ShouldBe([512]);
        names["text_projection.weight"].shape.ShouldBe([512, 512]);
        using var large = new ClipTextModel(ClipTextConfig.Preset("ViT-L/14"), initialize: false);
        large.parameters().Sum(parameter => parameter.numel()).ShouldBe(123_060_480);
    }

    [Fact]
    public void The_output_is_the_states_or_one_vector()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        using (var model = Make(Small))
        {
            var tokenizer = ClipTokenizer.Open(Tokenizer);
            var states = new ClipTextEncoder(model, tokenizer, ClipOutput.States);
            var pooled = new ClipTextEncoder(model, tokenizer);
            var projected = new ClipTextEncoder(model, tokenizer, ClipOutput.Projected);
            (states.Width, states.MaxTokens, pooled.Width, pooled.MaxTokens, projected.Width, projected.MaxTokens).ShouldBe((16, 12, 16, 1, 6, 1));

            string[] prompts = ["a cat", "", string.Concat(Enumerable.Repeat("beach ", 100))];
            var all = states.Encode(prompts);
            all.States.shape.ShouldBe([3, 12, 16]);
            all.States.requires_grad.ShouldBeFalse();
            var count = tokenizer.Encode("a cat", 12).Count;
            all.Mask.sum(1).data<long>().ToArray().ShouldBe([count, 2, 12]);
            var one = pooled.Encode(prompts);
            one.States.shape.ShouldBe([3, 1, 16]);
            one.Mask.shape.ShouldBe([3, 1]);
            one.Mask.all().item<bool>().ShouldBeTrue();
            Difference(one.States[0, 0], all.States[0, count - 1]).ShouldBe(0);
            Difference(one.States[2, 0], all.States[2, 11]).ShouldBe(0);
            projected.Encode(prompts).States.shape.ShouldBe([3, 1, 6]);
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Tokens_attend_only_to_previous_tokens()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var ids = tensor(new long[] { 652, 5, 6, 653, 1, 2 }, [1, 6]);
        var changed = tensor(new long[] { 652, 5, 6, 653, 3, 4 }, [1, 6]);
        var (a, b) = (model.call(ids), model.call(changed));
        Difference(a.Pooled, b.Pooled).ShouldBe(0);
        Difference(a.States[0].narrow(0, 0, 4), b.States[0].narrow(0, 0, 4)).ShouldBe(0);
        Difference(a.States[0, 4], b.States[0, 4]).ShouldBeGreaterThan(1e-3);
        Difference(model.call(ids.narrow(1, 0, 4)).Pooled, a.Pooled).ShouldBeLessThan(1e-5);
    }

    [Fact]
    public void Weights_load_from_a_full_CLIP_with_and_without_projection()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var file = model.state_dict();
        file["vision_model.embeddings.class_embedding"] = zeros(3);
        file["visual_projection.weight"] = zeros(3);
        file["logit_scale"] = zeros(1);
        file["text_model.embeddings.position_ids"] = zeros([1, 12], ScalarType.Int64);
        SafetensorsWriter.Write(_folder["clip.safetensors"], file);
        using var same = new ClipTextEncoder(Make(Small), ClipTokenizer.Open(Tokenizer));
        foreach (var projection in new int?[] { 6, null })
        {
            using var loaded = ClipTextEncoder.Load(Small with { ProjectionDim = projection }, _folder["clip.safetensors"], Tokenizer);
            Difference(loaded.Encode(["a cat"]).States, same.Encode(["a cat"]).States).ShouldBe(0);
        }
    }

    [Fact]
    public void Gradients_reach_every_parameter_and_checkpointing_changes_none()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            var ids = tensor(new long[] { 652, 5, 6, 653 }, [1, 4]);
            List<Tensor> Gradients()
            {
                model.zero_grad();
                model.call(ids).Projected!.square().sum().backward();
                return [.. model.named_parameters().Select(pair => pair.parameter.grad.ShouldNotBeNull(pair.name).clone())];
            }
            var plain = Gradients();
            model.UseGradientCheckpointing();
            foreach (var (again, first) in Gradients().Zip(plain))
            {
                Difference(again, first).ShouldBeLessThan(1e-5);
            }
        }
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Bfloat16_matrix_multiplications_stay_near_float32()
    {
        using var scope = NewDisposeScope();
        using var model = Make(Small);
        var ids = tensor(new long[] { 652, 5, 6, 653 }, [1, 4]);
        var exact = model.call(ids).Pooled;
        var rough = model.UseComputeType(ScalarType.BFloat16).call(ids).Pooled;
        rough.dtype.ShouldBe(ScalarType.Float32);
        Difference(rough, exact).ShouldBeInRange(1e-6, 0.1);
    }

    [Fact]
    public void Files_that_do_not_fit_are_rejected_and_leave_no_tensor()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        {
            using var model = Make(Small);
            void Refused(string message, Action call) => Should.Throw<ArgumentException>(call).Message.ShouldContain(message);
            Refused("valid ids are 0 to 653", () => model.call(tensor(new long[] { 653, 654 }, [1, 2])));
            Refused("no end-of-text token (653)", () => model.call(tensor(new long[] { 653, 1, 1, 1 }, [2, 2])));
            Refused("at most 12 tokens", () => model.call(zeros([1, 13], ScalarType.Int64)));
            Refused("expected Int64", () => model.call(zeros([1, 3])));
            Refused("known are 'quick_gelu' and 'gelu'", () => new ClipTextModel(Small with { HiddenAct = "relu" }));
            Refused("HiddenSize 16 is not a multiple of NumAttentionHeads 3", () => new ClipTextModel(Small with { NumAttentionHeads = 3 }));
            Refused("EosTokenId is 654", () => new ClipTextModel(Small with { EosTokenId = 654 }));
            Refused("ProjectionDim is 0", () => new ClipTextModel(Small with { ProjectionDim = 0 }));
            Refused("Known are ViT-B/32", () => ClipTextConfig.Preset("ViT-Z"));
            Refused("the model has no projection", () =>
                new ClipTextEncoder(new ClipTextModel(Small with { ProjectionDim = null }), ClipTokenizer.Open(Tokenizer), ClipOutput.Projected)
            );
            Refused("There is no prompt", () => new ClipTextEncoder(model, ClipTokenizer.Open(Tokenizer)).Encode([]));
            model.SaveWeights(_folder["clip.safetensors"]);
        }
        GC.Collect();
        GC.WaitForPendingFinalizers();
        Should
            .Throw<InvalidWeightsException>(() => ClipTextEncoder.Load(Small with { NumHiddenLayers = 3 }, _folder["clip.safetensors"], Tokenizer))
            .Message.ShouldContain("Missing: text_model.encoder.layers.2");
        Should
            .Throw<InvalidDataException>(() => ClipTextEncoder.Load(Small with { EosTokenId = 3 }, _folder["clip.safetensors"], Tokenizer))
            .Message.ShouldContain("the end-of-text id 653");
        TensorCount.ShouldBe(before);
    }
}
