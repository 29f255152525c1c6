using OpenSora.Models;
using OpenSora.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Text;

public sealed class TextEncoderTests : IDisposable
{
    private static readonly T5Config Config = new()
    {
        VocabSize = 512,
        DModel = 16,
        DKv = 4,
        DFf = 32,
        NumLayers = 2,
        NumHeads = 2,
    };

    private static readonly string Tokenizer = TestFiles.Data("sentencepiece", "t5.model");

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Prompts_are_padded_masked_and_encoded_by_the_model()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        using (var encoder = new T5TextEncoder(Config, SentencePieceTokenizer.Open(Tokenizer), maxTokens: 12, cleanCaptions: false))
        {
            var states = encoder.Encode(["A goat", "", string.Concat(Enumerable.Repeat("long ", 2_000))]);
            states.States.shape.ShouldBe([3, 12, 16]);
            states.States.requires_grad.ShouldBeFalse();
            states.Mask.dtype.ShouldBe(ScalarType.Bool);
            var goat = SentencePieceTokenizer.Open(Tokenizer).Encode("a goat", 12);
            states.Mask.sum(1).data<long>().ToArray().ShouldBe([goat.Count, 1, 12]);

            var ids = new long[1, goat.Count];
            for (var i = 0; i < goat.Count; i++)
            {
                ids[0, i] = goat[i];
            }

            var alone = encoder.call(tensor(ids), null);
            (states.States[0].narrow(0, 0, goat.Count) - alone[0]).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Cleaning_is_on_or_off()
    {
        using var scope = NewDisposeScope();
        var tokenizer = SentencePieceTokenizer.Open(Tokenizer);
        using var clean = new T5TextEncoder(Config, tokenizer, 20);
        using var plain = new T5TextEncoder(Config, tokenizer, 20, cleanCaptions: false);
        plain.load_state_dict(clean.state_dict());
        ShouldEqual(clean.Encode(["A goat (#12)"]), plain.Encode(["a goat"]));
        plain.Encode(["a goat (#12)"]).States.eq(plain.Encode(["a goat"]).States).all().item<bool>().ShouldBeFalse();
    }

    [Fact]
    public void Weights_load_with_either_name_of_the_table_and_without_the_decoder()
    {
        using var scope = NewDisposeScope();
        using var model = new T5TextEncoder(Config, SentencePieceTokenizer.Open(Tokenizer), 8);
        var weights = model.state_dict();
        foreach (var rename in new[] { false, true })
        {
            var file = weights.ToDictionary(
                pair => rename && pair.Key is "shared.weight" ? "encoder.embed_tokens.weight" : pair.Key,
                pair => pair.Value
            );
            if (!rename)
            {
                file["encoder.embed_tokens.weight"] = weights["shared.weight"];
            }

            file["decoder.block.0.weight"] = zeros(1);
            SafetensorsWriter.Write(_folder["t5.safetensors"], file);
            using var loaded = T5TextEncoder.Load(Config, _folder["t5.safetensors"], Tokenizer, 8);
            using var direct = new T5TextEncoder(Config, SentencePieceTokenizer.Open(Tokenizer), 8);
            var expected = model.Encode(["a goat"]);
            ShouldEqual(loaded.Encode(["a goat"]), expected);
            direct.Encode(["a goat"]).States.eq(expected.States).all().item<bool>().ShouldBeFalse();
        }
    }

    [Fact]
    public void An_encoder_of_token_ids_needs_no_tokenizer()
    {
        using var scope = NewDisposeScope();
        using var encoder = new T5TextEncoder(Config);
        encoder
            .call(
                tensor(
                    new long[,]
                    {
                        { 3, 1 },
                    }
                ),
                null
            )
            .shape.ShouldBe([1, 2, 16]);
        Should.Throw<InvalidOperationException>(() => encoder.Encode(["a goat"])).Message.ShouldContain("has no tokenizer");
    }

    [Fact]
    public void Files_that_do_not_fit_are_rejected_and_leave_no_tensor()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        using (var other = new T5TextEncoder(Config with { NumLayers = 1 }))
        {
            other.SaveWeights(_folder["one-layer.safetensors"]);
        }

        Should
            .Throw<InvalidWeightsException>(() => T5TextEncoder.Load(Config, _folder["one-layer.safetensors"], Tokenizer))
            .Message.ShouldContain("Missing: encoder.block.1");
        Should
            .Throw<InvalidWeightsException>(() => T5TextEncoder.Load(Config, Directory.CreateDirectory(_folder["empty"]).FullName, Tokenizer))
            .Message.ShouldContain("folder contains no weights");
        Should
            .Throw<InvalidDataException>(() => T5TextEncoder.Load(Config with { VocabSize = 100 }, _folder["one-layer.safetensors"], Tokenizer))
            .Message.ShouldContain("500 pieces");
        Should.Throw<InvalidDataException>(() => T5TextEncoder.Load(Config, _folder["one-layer.safetensors"], _folder["one-layer.safetensors"]));
        TensorCount.ShouldBe(before);
    }

    private static void ShouldEqual(TextStates actual, TextStates expected)
    {
        actual.States.shape.ShouldBe(expected.States.shape);
        actual.States.eq(expected.States).all().item<bool>().ShouldBeTrue();
        actual.Mask.eq(expected.Mask).all().item<bool>().ShouldBeTrue();
    }
}
