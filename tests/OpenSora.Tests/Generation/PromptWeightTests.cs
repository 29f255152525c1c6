using OpenSora.Generation;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Tests weights of words in prompts, and prompts that are encoded beforehand.</summary>
[Collection(nameof(LiveTensorCount))]
public class PromptWeightTests
{
    [Theory]
    [InlineData("a (red:1.4) car", "a red car", "2-5 1.4")]
    [InlineData("(a: b:0.5) c", "a: b c", "0-4 0.5")]
    [InlineData(@"a \(b\) (c\):2)", "a (b) c)", "6-8 2")]
    [InlineData("(a:1) b", "a b", "")]
    [InlineData("(:2) b", " b", "")]
    [InlineData("plain, with: colon", "plain, with: colon", "")]
    [InlineData(@"a\b", @"a\b", "")]
    public void Prompts_are_parsed(string prompt, string text, string spans)
    {
        var parsed = WeightedPrompt.Parse(prompt);
        parsed.Text.ShouldBe(text);
        string.Join(";", parsed.Spans.Select(span => FormattableString.Invariant($"{span.Start}-{span.End} {span.Weight}"))).ShouldBe(spans);
    }

    [Theory]
    [InlineData("a (b) c", "without a weight")]
    [InlineData("a (b:1.2", "without a weight")]
    [InlineData("a b:1.2)", "without a weight")]
    [InlineData("((a:1.2):2)", "without a weight")]
    [InlineData("(a:x)", "(a:x)")]
    [InlineData("(a:-1)", "(a:-1)")]
    [InlineData("(a:11)", "(a:11)")]
    [InlineData("(a:NaN)", "(a:NaN)")]
    public void Mistakes_are_quoted(string prompt, string message) =>
        Should.Throw<FormatException>(() => WeightedPrompt.Parse(prompt)).Message.ShouldContain(message);

    [Fact]
    public void Weights_scale_the_states_of_their_words()
    {
        using var scope = NewDisposeScope();
        var config = new T5Config
        {
            DModel = 8,
            DKv = 4,
            DFf = 16,
            NumLayers = 1,
            NumHeads = 2,
        };
        var tokenizer = OpenSora.Text.SentencePieceTokenizer.Open(TestFiles.Data("sentencepiece", "t5.model"));
        using var encoder = new T5TextEncoder(config, tokenizer, maxTokens: 12, cleanCaptions: false);
        const string plain = "a red car on the road";
        var before = tokenizer.Encode("a red", 12).Count - 1;
        var car = tokenizer.Encode("a red car", 12).Count - 1;
        car.ShouldBeGreaterThan(before);
        var (states, nothing) = (encoder.Encode([plain]).States, encoder.Encode([""]).States);
        var weighted = WeightedPrompt.Encode(encoder, ["a red (car:1.5) on the road"]);
        var expected = states.clone();
        expected[0, before..car] = nothing[0, before..car] + 1.5 * (states[0, before..car] - nothing[0, before..car]);
        (weighted.States - expected).abs().max().item<float>().ShouldBeLessThan(1e-5f);
        weighted.Mask.sum().item<long>().ShouldBe(encoder.Encode([plain]).Mask.sum().item<long>());

        // Without effect: weight 1. Without the word: weight 0.
        WeightedPrompt.Encode(encoder, ["a red (car:1) on the road"]).States.equal(states).all().item<bool>().ShouldBeTrue();
        var none = WeightedPrompt.Encode(encoder, ["a red (car:0) on the road"]).States;
        (none[0, before..car] - nothing[0, before..car]).abs().max().item<float>().ShouldBeLessThan(1e-6f);
    }

    [Fact]
    public async Task Weights_are_off_unless_asked_for_and_refused_where_they_have_no_meaning()
    {
        using var model = new TinyModel();
        using var whole = model.Whole();
        async Task<byte[]> Of(string prompt, bool? weighting) =>
            (await whole.Request(prompt).Seed(1).PromptWeighting(weighting).GenerateAsync()).Frames.Pixels.ToArray();
        var plain = await Of("a red car", null);
        (await Of("a red car", true)).ShouldBe(plain);
        (await Of("a (red:3) car", true)).ShouldNotBe(plain);
        (await Of("a (red:3) car", null)).ShouldNotBe(await Of("a (red:3) car", true));
        using var generator = model.Generator(); // its text encoder has no words
        var error = await Should.ThrowAsync<NotSupportedException>(() => generator.Request("a (red:3) car").PromptWeighting().GenerateAsync());
        error.Message.ShouldContain(nameof(HashTextEncoder));
        await Should.ThrowAsync<FormatException>(() => generator.Request("a (red) car").PromptWeighting().GenerateAsync());
    }

    [Fact]
    public async Task Encoded_prompts_replace_prompts()
    {
        using var model = new TinyModel();
        var before = TensorCount.Settled;
        using (var generator = model.Generator())
        {
            var expected = (await generator.Request("a goat").NegativePrompt("a boat").Seed(1).GenerateAsync()).Frames.Pixels.ToArray();
            using var goat = await generator.EncodePromptAsync("a goat");
            using var boat = await generator.EncodePromptAsync("a boat");
            var request = new VideoRequest
            {
                PromptStates = goat,
                NegativePromptStates = boat,
                Seed = 1,
            };
            (await generator.GenerateAsync(request)).Frames.Pixels.ToArray().ShouldBe(expected);
            goat.States.IsInvalid.ShouldBeFalse();

            using var wide = new TextStates(zeros(1, 2, 99), ones(1, 2, ScalarType.Bool));
            request.PromptStates = wide;
            var error = await Should.ThrowAsync<InvalidOperationException>(() => generator.GenerateAsync(request));
            error.Message.ShouldContain("The encoded prompt has states of shape [1, 2, 99]");
        }

        TensorCount.ShouldBe(before, settled: true);
    }
}
