using System.Globalization;
using static TorchSharp.torch;

namespace OpenSora.Diffusion;

/// <summary>Which frames of a reference are given to a video, where, and how far they may change: Open-Sora's mask strategies (reports of 1.1 and
/// 1.2, image and video
/// conditioning).</summary>
/// <remarks>An image to animate is <c>new MaskStrategy()</c>; its text form is <c>0</c>.</remarks>
public sealed record MaskStrategy
{
    private const string Syntax = "loop,reference,reference start,target start,length,edit ratio";

    /// <summary>The part of a long video, made one after another, that this is for.</summary>
    public int Loop { get; init; }

    /// <summary>The reference's number, from 0.</summary>
    public int Reference { get; init; }

    /// <summary>The first frame of the reference; below 0 counts from its end.</summary>
    public int ReferenceStart { get; init; }

    /// <summary>The frame of the video that it becomes; below 0 counts from its end.</summary>
    public int TargetStart { get; init; }

    /// <summary>Frames; what goes beyond the end of either is left out.</summary>
    public int Length { get; init; } = 1;

    /// <summary>How much of the frames is made anew: from 0, nothing, to 1, all.</summary>
    public double EditRatio { get; init; }

    /// <summary>Reads Open-Sora's form: strategies separated by semicolons, each of up to six numbers <c>loop,reference,reference start,target
    /// start,length,edit ratio</c>,
    /// where those left out are 0, and the length 1.</summary>
    /// <param name="text">Such as <c>0,0,0,0,1;0,1,0,-1,1,0.4</c>; empty = none.</param>
    /// <exception cref="FormatException">It is something else; the message says which part.</exception>
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
            : throw new FormatException($"'{parts[i]}' in the mask strategy '{text}' is no whole number; expected {Syntax}.");
        var ratio = 0.0;
        if (parts.Length > 6 || (parts.Length == 6 && !double.TryParse(parts[5], NumberStyles.Float, CultureInfo.InvariantCulture, out ratio)))
        {
            throw new FormatException($"The mask strategy '{text}' has {parts.Length} parts, or an edit ratio that is no number; expected {Syntax}.");
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

    /// <summary>Open-Sora's form.</summary>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Loop},{Reference},{ReferenceStart},{TargetStart},{Length},{EditRatio}");

    /// <summary>What is wrong whatever it is used for; null = nothing.</summary>
    internal string? Problem() =>
        this switch
        {
            { Loop: < 0 } => $"the loop {Loop} is negative",
            { Reference: < 0 } => $"the reference {Reference} is negative",
            { Length: < 1 } => $"the length {Length} is not above 0",
            { EditRatio: not (>= 0 and <= 1) } => $"the edit ratio {EditRatio} is not from 0 to 1",
            _ => null,
        };

    /// <summary>Puts the frames of references into a video's noise, for <see cref="IFrameSampler"/>.</summary>
    /// <param name="latents">Noise of one video, <c>[channels, frames, height, width]</c>; not changed.</param>
    /// <param name="references">Latents of the references, <c>[channels, frames, height, width]</c> each.</param>
    /// <param name="strategies">Where their frames go; later ones win.</param>
    /// <param name="loop">The part of a long video that this is; strategies for others are left out.</param>
    /// <param name="align">Rounds starts to multiples of so many latent frames, as an autoencoder that encodes several at once needs (Open-Sora 1.2:
    /// 5); null = leaves them.</param>
    /// <returns>The latents, and what <see cref="IFrameSampler.SampleFrames"/> takes as the share of each frame that is made anew, <c>[frames]</c>;
    /// both owned by the caller.</returns>
    /// <exception cref="ArgumentException">A strategy asks for what is not there.</exception>
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
            throw new ArgumentOutOfRangeException(nameof(align), align, "Starts are rounded to multiples of at least 1 frame.");
        }

        if (latents.dim() != 4)
        {
            throw new ArgumentException(
                $"The latents have shape {Iddpm.Shape(latents)}; expected those of one video, [channels, frames, height, width].",
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
                    $"The mask strategy '{strategy}' asks for reference {strategy.Reference}, but there are {references.Count}; they count from 0.",
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
                    $"Reference {strategy.Reference} has shape {Iddpm.Shape(reference)}; it must be that of the latents, {Iddpm.Shape(latents)}, apart from the frames.",
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
