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
        using (var model = new T5Encoder(Config))
        using (var encoder = new T5TextEncoder(model, SentencePieceTokenizer.Open(Tokenizer), maxTokens: 12, cleanCaptions: false))
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

            var alone = model.call(tensor(ids), null);
            (states.States[0].narrow(0, 0, goat.Count) - alone[0]).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        }

        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void Cleaning_is_on_or_off()
    {
        using var scope = NewDisposeScope();
        using var model = new T5Encoder(Config);
        var tokenizer = SentencePieceTokenizer.Open(Tokenizer);
        using var clean = new T5TextEncoder(model, tokenizer, 20);
        var plain = new T5TextEncoder(model, tokenizer, 20, cleanCaptions: false);
        ShouldEqual(clean.Encode(["A goat (#12)"]), plain.Encode(["a goat"]));
        plain.Encode(["a goat (#12)"]).States.eq(plain.Encode(["a goat"]).States).all().item<bool>().ShouldBeFalse();
    }

    [Fact]
    public void Weights_load_with_either_name_of_the_table_and_without_the_decoder()
    {
        using var scope = NewDisposeScope();
        using var model = new T5Encoder(Config);
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
            using var direct = new T5TextEncoder(new T5Encoder(Config), SentencePieceTokenizer.Open(Tokenizer), 8);
            var expected = new T5TextEncoder(model, SentencePieceTokenizer.Open(Tokenizer), 8).Encode(["a goat"]);
            ShouldEqual(loaded.Encode(["a goat"]), expected);
            direct.Encode(["a goat"]).States.eq(expected.States).all().item<bool>().ShouldBeFalse();
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_leaves_no_tensor()
    {
        var before = TensorCount.Now;
        using (NewDisposeScope())
        using (var other = new T5Encoder(Config with { NumLayers = 1 }))
        {
            other.SaveWeights(_folder["one-layer.safetensors"]);
        }

        Should
            .Throw<InvalidWeightsException>(() => T5TextEncoder.Load(Config, _folder["one-layer.safetensors"], Tokenizer))
            .Message.ShouldContain("Missing: encoder.block.1");
        Should
            .Throw<InvalidWeightsException>(() => T5TextEncoder.Load(Config, Directory.CreateDirectory(_folder["empty"]).FullName, Tokenizer))
            .Message.ShouldContain("folder holds no weights");
        Should
            .Throw<InvalidTokenizerException>(() => T5TextEncoder.Load(Config with { VocabSize = 100 }, _folder["one-layer.safetensors"], Tokenizer))
            .Message.ShouldContain("500 pieces");
        Should.Throw<InvalidTokenizerException>(() => T5TextEncoder.Load(Config, _folder["one-layer.safetensors"], _folder["one-layer.safetensors"]));
        TensorCount.ShouldBe(before);
    }

    [Fact]
    public void The_cache_gives_equal_states_and_asks_once()
    {
        using var scope = NewDisposeScope();
        var inner = new CountingEncoder();
        using var cached = new CachedTextEncoder(inner, capacity: 2);
        ShouldEqual(cached.Encode(["a", "b", "a"]), new CountingEncoder().Encode(["a", "b", "a"]));
        inner.Encoded.ShouldBe(["a", "b"]);
        ShouldEqual(cached.Encode(["b", "a"]), new CountingEncoder().Encode(["b", "a"]));
        inner.Encoded.Count.ShouldBe(2);

        cached.Encode(["c"]);
        cached.Count.ShouldBe(2);
        cached.Encode(["a"]);
        inner.Encoded.ShouldBe(["a", "b", "c"]);
        cached.Encode(["b"]);
        inner.Encoded.ShouldBe(["a", "b", "c", "b"]);
    }

    [Fact]
    public void Cached_states_are_the_callers_own_and_the_cache_goes_with_its_encoder()
    {
        var before = TensorCount.Now;
        var inner = new CountingEncoder();
        var cached = new CachedTextEncoder(inner, capacity: 2);
        using (var states = cached.Encode(["a"]))
        {
            states.States.fill_(100);
        }

        using (NewDisposeScope())
        {
            ShouldEqual(cached.Encode(["a"]), new CountingEncoder().Encode(["a"]));
        }

        TensorCount.ShouldBe(before + 2);
        using (cached.Encode(["a", "b", "c", "d"])) { }

        TensorCount.ShouldBe(before + 4);
        cached.Dispose();
        cached.Dispose();
        inner.Disposals.ShouldBe(1);
        TensorCount.ShouldBe(before);
        Should.Throw<ObjectDisposedException>(() => cached.Encode(["a"]));
    }

    [Fact]
    public async Task The_cache_serves_many_threads()
    {
        var before = TensorCount.Now;
        using (var cached = new CachedTextEncoder(new CountingEncoder(), capacity: 3))
        {
            await Task.WhenAll(
                Enumerable
                    .Range(0, 4)
                    .Select(thread =>
                        Task.Run(() =>
                        {
                            for (var i = 0; i < 100; i++)
                            {
                                using var scope = NewDisposeScope();
                                var prompt = ((char)('a' + ((i * (thread + 1)) % 7))).ToString();
                                cached.Encode([prompt]).States[0, 0, 0].item<float>().ShouldBe(prompt[0]);
                            }
                        })
                    )
            );
            cached.Count.ShouldBe(3);
        }

        TensorCount.ShouldBe(before);
    }

    private static void ShouldEqual(TextStates actual, TextStates expected)
    {
        actual.States.shape.ShouldBe(expected.States.shape);
        actual.States.eq(expected.States).all().item<bool>().ShouldBeTrue();
        actual.Mask.eq(expected.Mask).all().item<bool>().ShouldBeTrue();
    }

    /// <summary>Encodes a prompt as the number of its first character.</summary>
    private sealed class CountingEncoder : ITextEncoder
    {
        public List<string> Encoded { get; } = [];

        public int Disposals { get; private set; }

        public int Width => 3;

        public int MaxTokens => 4;

        public TextStates Encode(IReadOnlyList<string> prompts)
        {
            lock (Encoded)
            {
                Encoded.AddRange(prompts);
            }

            using var scope = NewDisposeScope();
            var states = stack(prompts.Select(prompt => full([4, 3], prompt[0], ScalarType.Float32)).ToArray(), 0);
            var mask = ones([prompts.Count, 4], ScalarType.Bool);
            return new TextStates(states.MoveToOuterDisposeScope(), mask.MoveToOuterDisposeScope());
        }

        public void Dispose() => Disposals++;
    }
}
