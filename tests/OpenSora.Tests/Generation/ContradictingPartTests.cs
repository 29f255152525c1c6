using OpenSora.Diffusion;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Generation;

/// <summary>Custom parts whose results contradict their own properties.</summary>
public class ContradictingPartTests
{
    public static TheoryData<long[], long[], ScalarType, string> Texts =>
        new()
        {
            { [1, 6, 10], [1, 6], ScalarType.Bool, "states of shape [1, 6, 10]; StdiT expects [1, up to 8, 12]" },
            { [1, 9, 12], [1, 9], ScalarType.Bool, "states of shape [1, 9, 12]; StdiT expects [1, up to 8, 12]" },
            { [6, 12], [6], ScalarType.Bool, "states of shape [6, 12]" },
            { [2, 6, 12], [2, 6], ScalarType.Bool, "states of shape [2, 6, 12]" },
            { [1, 6, 12], [1, 5], ScalarType.Bool, "a mask of Bool with shape [1, 5]; expected Bool with shape [1, 6]" },
            { [1, 6, 12], [1, 6], ScalarType.Float32, "a mask of Float32 with shape [1, 6]; expected Bool" },
        };

    [Theory]
    [MemberData(nameof(Texts))]
    public async Task A_text_encoder_is_named_with_what_it_returned(long[] states, long[] mask, ScalarType type, string message)
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseTextEncoder(_ => new OtherText(states, mask, type)).Build();
        (await Should.ThrowAsync<InvalidOperationException>(generator.Request("a goat").GenerateAsync())).Message.ShouldContain(message);
    }

    [Fact]
    public async Task An_autoencoder_is_named_with_what_it_decoded()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseVae(_ => new OtherVae()).Build();
        (await Should.ThrowAsync<InvalidOperationException>(generator.Request("a goat").Frames(2).Size(16, 8).GenerateAsync())).Message.ShouldContain(
            "The autoencoder OtherVae decoded latents of shape [1, 4, 2, 2, 4] to pixels of shape [1, 3, 2, 4, 8]; "
                + "by its factors, [1, 3, 2, 8, 16] is expected."
        );
    }

    [Fact]
    public async Task An_autoencoder_is_named_with_what_it_encoded()
    {
        using var model = new TinyModel(d => d with { Video = d.Video with { GivenFrames = true } }, architecture: "stdit2");
        using var generator = model.Builder().UseVae(_ => new OtherVae()).Build();
        var reference = new VideoFrames(new byte[8 * 16 * 3], 1, 8, 16, 8);
        var request = generator.Request("a goat").Frames(2).Size(16, 8).ConditionOn(reference);
        (await Should.ThrowAsync<InvalidOperationException>(request.GenerateAsync())).Message.ShouldContain(
            "The autoencoder OtherVae encoded pixels"
        );
    }

    [Fact]
    public async Task A_sampler_is_named_with_the_latents_that_it_returned()
    {
        using var model = new TinyModel();
        using var generator = model.Builder().UseSampler(_ => new OtherSampler()).Build();
        (await Should.ThrowAsync<InvalidOperationException>(generator.Request("a goat").Frames(2).Size(16, 8).GenerateAsync())).Message.ShouldContain(
            "OtherSampler.Step returned latents of shape [1, 4, 1, 2, 4] for latents of shape [1, 4, 2, 2, 4]"
        );
    }

    [Theory]
    [InlineData(5, 12)]
    [InlineData(6, 11)]
    public void A_transformer_is_named_with_the_null_caption_that_it_returned(int tokens, int width)
    {
        using var transformer = new OtherTransformer(tokens, width);
        using var text = new HashTextEncoder();
        var pipeline = new VideoPipeline(transformer, text, null, new OtherSampler());
        var settings = new GenerationSettings
        {
            Frames = 2,
            Width = 8,
            Height = 8,
        };
        Should
            .Throw<InvalidOperationException>(() => pipeline.Generate(["a goat"], settings))
            .Message.ShouldContain($"OtherTransformer.NullCaption returned states of shape [1, {tokens}, {width}]");
    }

    // Loses a frame.
    private sealed class OtherSampler : ISampler
    {
        public int? GuidedChannels => null;

        public IReadOnlyList<double> Timesteps(long[] shape) => [1, 0];

        public Tensor Step(SamplingState state, Tensor x, Tensor output) => x.narrow(2, 0, x.shape[2] - 1).clone();
    }

    private sealed class OtherTransformer : nn.Module, IVideoTransformer
    {
        private readonly (int Tokens, int Width) _caption;

        public OtherTransformer(int tokens, int width)
            : base(nameof(OtherTransformer))
        {
            _caption = (tokens, width);
            register_parameter("scale", new TorchSharp.Modules.Parameter(ones(1)));
        }

        public int LatentChannels => 3;

        public IReadOnlyList<int> LatentMultiple => [1, 1, 1];

        public int TextWidth => HashTextEncoder.States;

        public int TextTokens => HashTextEncoder.Tokens;

        public bool SupportsNoisyFrames => false;

        public double CaptionDropout => 0;

        public Tensor NullCaption(long batch = 1) => zeros(batch, _caption.Tokens, _caption.Width);

        public Tensor Denoise(Tensor x, Tensor t, DenoiserConditions conditions) => x.clone();
    }

    private sealed class OtherText(long[] states, long[] mask, ScalarType type) : ITextEncoder
    {
        public int Width => HashTextEncoder.States;

        public int MaxTokens => HashTextEncoder.Tokens;

        public TextStates Encode(IReadOnlyList<string> prompts) => new(zeros(states), ones(mask).to_type(type));

        public void Dispose() { }
    }

    // Says 4 pixels for a latent position, but works with 2.
    private sealed class OtherVae : IVideoAutoencoder
    {
        public int LatentChannels => 4;

        public int SpatialFactor => 4;

        public int TemporalFactor => 1;

        public Tensor Encode(Tensor video, Generator? generator = null) =>
            zeros([video.shape[0], 4, video.shape[2], video.shape[3] / 2, video.shape[4] / 2]);

        public Tensor Decode(Tensor latents) => zeros([latents.shape[0], 3, latents.shape[2], latents.shape[3] * 2, latents.shape[4] * 2]);

        public void Dispose() { }
    }
}
