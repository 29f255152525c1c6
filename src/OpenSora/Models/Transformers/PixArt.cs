namespace OpenSora.Models;

// PixArt-alpha, the image model from which STDiT is initialized ("PixArt-alpha: Fast Training of Diffusion Transformer for Photorealistic
// Text-to-Image Synthesis", Chen et al., 2023), as implemented in Open-Sora 1.0. Its blocks are those of STDiT without separate attention along time:
//   1. self-attention over all tokens, 2. cross attention to the text, 3. an MLP, all modulated by adaLN-single.
// An image is a video of one frame; with more frames, attention spans all of them. The names of parameters and buffers are those of Open-Sora.
public sealed partial record StdiTConfig
{
    /// <summary>The configuration of PixArt-alpha (Chen et al., 2023) for images of 512x512 pixels: attention over all tokens, positions stretched to
    /// a square, and no temporal positions.</summary>
    public static StdiTConfig PixArt { get; } =
        new()
        {
            AttentionOrder = AttentionOrder.Full,
            StretchPositions = true,
            NoTemporalPosEmb = true,
            InputSize = [1, 64, 64],
        };

    // The model for many sizes is also conditioned on height, width and aspect ratio.
    private static StdiTConfig PixArtForManySizes { get; } = PixArt with { InputSize = [1, 128, 128], SpaceScale = 2, SizeConditioning = true };
}

public sealed partial class StdiT
{
    /// <summary>The descriptor of PixArt-alpha, an <see cref="StdiT"/> without separate attention along time. Its weights also fit an STDiT, whose
    /// attention along time then keeps its initial values.</summary>
    internal static Architecture<IVideoTransformer> PixArt { get; } =
        Architecture<IVideoTransformer>.Of(
            "pixart",
            config => new StdiT(config, initialize: false),
            StdiTConfig.PixArt,
            json: StdiTJson.Default.StdiTConfig
        ) with
        {
            Loading = (_, _) => PublishedWeights.Options(),
            Recognizer = file =>
                IsIn(file) is not { } shapes || shapes.Has("blocks.0.attn_temp.qkv.weight")
                    ? []
                    : [CandidateOf(shapes, StdiTConfig.PixArt), AsImageWeights(CandidateOf(shapes, new()))],
        };

    private static Candidate AsImageWeights(Candidate video) =>
        video with
        {
            Config = (StdiTConfig)video.Config with { SizeConditioning = false },
            Title = $"{video.Title}, as image weights",
            Options = PublishedWeights.Options(fromImage: true),
        };
}
