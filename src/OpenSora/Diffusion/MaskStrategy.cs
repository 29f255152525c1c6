using System.Globalization;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>A conditioning rule: the frames of a reference that condition a video, their position in it, and the amount of change allowed. These are
/// the mask strategies of Open-Sora (reports of versions 1.1 and 1.2, image and video conditioning).</summary>
/// <remarks>To animate an image, use <c>new MaskStrategy()</c>, which is <c>0</c> in text form.</remarks>
internal sealed record MaskStrategy
{
    private const string Syntax = "loop,reference,reference start,target start,length,edit ratio";

    /// <summary>The index of the segment that this strategy applies to, for a long video generated in several segments.</summary>
    public int Loop { get; init; }

    /// <summary>The index of the reference, from 0.</summary>
    public int Reference { get; init; }

    /// <summary>The first frame to use from the reference; negative values count from its end.</summary>
    public int ReferenceStart { get; init; }

    /// <summary>The frame of the video at which the reference frames are placed; negative values count from its end.</summary>
    public int TargetStart { get; init; }

    /// <summary>The number of frames; frames beyond the end of the reference or the video are omitted.</summary>
    public int Length { get; init; } = 1;

    /// <summary>The fraction of the denoising process that is applied to the frames, from 0 (frames are kept) to 1 (frames are generated from
    /// noise).</summary>
    public double EditRatio { get; init; }

    /// <summary>Parses Open-Sora's text form: strategies separated by semicolons, each with up to six numbers
    /// <c>loop,reference,reference start,target start,length,edit ratio</c>. Omitted numbers are 0, except for the length, which is 1.</summary>
    /// <param name="text">The text, such as <c>0,0,0,0,1;0,1,0,-1,1,0.4</c>; empty for no strategies.</param>
    /// <returns>The strategies in the order of the text.</returns>
    /// <exception cref="FormatException">The text is invalid; the message quotes the invalid part.</exception>
    public static IReadOnlyList<MaskStrategy> Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return string.IsNullOrWhiteSpace(text) ? [] : [.. text.Split(';').Select(One)];
    }

    private static MaskStrategy One(string text)
    {
        var parts = text.Split(',');
        int Whole(int i, int otherwise) =>
            i >= parts.Length ? otherwise
            : int.TryParse(
                parts[i],
                NumberStyles.AllowLeadingSign | NumberStyles.AllowLeadingWhite | NumberStyles.AllowTrailingWhite,
                CultureInfo.InvariantCulture,
                out var value
            )
                ? value
            : throw new FormatException($"'{parts[i]}' in the mask strategy '{text}' is not an integer; expected {Syntax}.");
        var ratio = 0.0;
        if (parts.Length > 6 || (parts.Length == 6 && !double.TryParse(parts[5], NumberStyles.Float, CultureInfo.InvariantCulture, out ratio)))
        {
            throw new FormatException($"The mask strategy '{text}' has {parts.Length} parts or a non-numeric edit ratio; expected {Syntax}.");
        }

        var strategy = new MaskStrategy
        {
            Loop = Whole(0, 0),
            Reference = Whole(1, 0),
            ReferenceStart = Whole(2, 0),
            TargetStart = Whole(3, 0),
            Length = Whole(4, 1),
            EditRatio = ratio,
        };
        return strategy.Problem() is { } problem ? throw new FormatException($"In the mask strategy '{text}', {problem}.") : strategy;
    }

    /// <summary>Returns Open-Sora's text form of this strategy.</summary>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Loop},{Reference},{ReferenceStart},{TargetStart},{Length},{EditRatio}");

    /// <summary>Returns the problem that makes this strategy invalid for any video; null if it is valid.</summary>
    internal string? Problem() =>
        this switch
        {
            { Loop: < 0 } => $"the loop {Loop} is negative",
            { Reference: < 0 } => $"the reference {Reference} is negative",
            { Length: < 1 } => $"the length {Length} is not greater than 0",
            { EditRatio: not (>= 0 and <= 1) } => $"the edit ratio {EditRatio} is not between 0 and 1",
            _ => null,
        };

    /// <summary>Places the frames of references in the noise of a video, for <see cref="Sampling.SampleFrames"/>.</summary>
    /// <param name="latents">Noise of one video, <c>[channels, frames, height, width]</c>; not modified.</param>
    /// <param name="references">The latents of the references, each <c>[channels, frames, height, width]</c>.</param>
    /// <param name="strategies">The strategies to apply; later ones overwrite earlier ones.</param>
    /// <param name="loop">The index of the video segment; strategies for other segments are ignored.</param>
    /// <param name="align">Rounds start frames to multiples of this number of latent frames, as needed for autoencoders that encode several frames
    /// together (Open-Sora 1.2: 5); null does not round.</param>
    /// <returns>The latents, and the fraction of the denoising process for each frame, <c>[frames]</c>, as expected by
    /// <see cref="Sampling.SampleFrames"/>; both are owned by the caller.</returns>
    /// <exception cref="ArgumentException">A strategy is invalid or refers to a reference or frame that does not exist, or a shape is
    /// invalid.</exception>
    public static (Tensor Latents, Tensor Share) Apply(
        Tensor latents,
        IReadOnlyList<Tensor> references,
        IReadOnlyList<MaskStrategy> strategies,
        int loop = 0,
        int? align = null
    )
    {
        ArgumentNullException.ThrowIfNull(latents);
        ArgumentNullException.ThrowIfNull(references);
        ArgumentNullException.ThrowIfNull(strategies);
        if (align is < 1)
        {
            throw new ArgumentOutOfRangeException(nameof(align), align, "The alignment must be at least 1 frame.");
        }

        if (latents.dim() != 4)
        {
            throw new ArgumentException(
                $"The latents have shape {Shapes.Text(latents)}; expected the latents of one video, [channels, frames, height, width].",
                nameof(latents)
            );
        }

        using var scope = NewDisposeScope();
        var frames = (int)latents.shape[1];
        var (video, share) = (latents.clone(), Enumerable.Repeat(1f, frames).ToArray());
        foreach (var strategy in strategies.Where(strategy => strategy.Loop == loop))
        {
            if (strategy.Problem() is { } problem)
            {
                throw new ArgumentException($"In the mask strategy '{strategy}', {problem}.", nameof(strategies));
            }

            if (strategy.Reference >= references.Count)
            {
                throw new ArgumentException(
                    $"The mask strategy '{strategy}' uses reference {strategy.Reference}, but there are only {references.Count}, counted from 0.",
                    nameof(strategies)
                );
            }

            var reference = references[strategy.Reference];
            if (
                reference.dim() != 4
                || reference.shape[0] != latents.shape[0]
                || reference.shape[2] != latents.shape[2]
                || reference.shape[3] != latents.shape[3]
            )
            {
                throw new ArgumentException(
                    $"Reference {strategy.Reference} has shape {Shapes.Text(reference)}; expected {Shapes.Text(latents)} except for the frames.",
                    nameof(references)
                );
            }

            var from = Start(strategy.ReferenceStart, (int)reference.shape[1], "reference");
            var to = Start(strategy.TargetStart, frames, "video");
            var length = Math.Min(strategy.Length, Math.Min(frames - to, (int)reference.shape[1] - from));
            video.narrow(1, to, length).copy_(reference.narrow(1, from, length));
            Array.Fill(share, (float)strategy.EditRatio, to, length);

            int Start(int start, int count, string what)
            {
                var place = start < 0 ? count + start : start;
                if (place < 0 || place >= count)
                {
                    throw new ArgumentException(
                        $"The mask strategy '{strategy}' starts at frame {start} of the {what}, which has {count}.",
                        nameof(strategies)
                    );
                }

                if (align is not { } multiple)
                {
                    return place;
                }

                var aligned = place / multiple * multiple;
                return place % multiple > multiple / 2.0 && aligned + multiple < count ? aligned + multiple : aligned;
            }
        }
        return (video.MoveToOuterDisposeScope(), tensor(share, device: latents.device).MoveToOuterDisposeScope());
    }
}
