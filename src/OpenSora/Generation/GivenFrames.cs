using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Conditioning frames: frames of a reference that appear at a given position of the video.</summary>
/// <param name="Frames">The conditioning frames, of any size in pixels.</param>
/// <param name="LatentFrame">The index of the first latent frame that they replace.</param>
/// <param name="EditRatio">The fraction of the denoising process that is applied to them, from 0 (unchanged) to 1.</param>
internal sealed record GivenFrames(VideoFrames Frames, int LatentFrame, double EditRatio)
{
    // The number of frames to encode at a time if the autoencoder encodes each frame independently.
    private const int EncodedAtOnce = 4;

    /// <summary>Resolves a request's mask strategies to conditioning frames, and checks that the model supports them.</summary>
    /// <param name="request">The request.</param>
    /// <param name="frames">The number of frames of the video.</param>
    /// <param name="sampler">The kind of sampler that will generate the video.</param>
    /// <param name="model">The model.</param>
    /// <param name="problems">Receives one sentence for each problem found.</param>
    /// <returns>The conditioning frames; empty if the request has no references.</returns>
    internal static List<GivenFrames> Of(VideoRequest request, int frames, SamplerKind sampler, LoadedModel model, List<string> problems)
    {
        List<GivenFrames> given = [];
        if (request.References.Count == 0 && request.MaskStrategies.Count == 0)
        {
            return given;
        }

        var (name, group) = (model.Description.Name, model.Vae.TemporalFactor);
        if (!model.Description.Video.GivenFrames)
        {
            problems.Add(
                $"The request has references, but {name} was not trained with conditioning frames. Use a model such as Open-Sora 1.1 or 1.2."
            );
        }

        if (sampler is not (SamplerKind.Iddpm or SamplerKind.RectifiedFlow))
        {
            problems.Add(
                $"The request has references, but {sampler} does not support conditioning frames; use "
                    + $"{(model.Description.Diffusion.Kind == DiffusionKind.RectifiedFlow ? SamplerKind.RectifiedFlow : SamplerKind.Iddpm)}."
            );
        }

        if (request.MaskStrategies.Count == 0)
        {
            problems.Add("The request has references, but no MaskStrategies that place their frames in the video; ConditionOn adds both.");
        }

        var share = Enumerable.Repeat(1.0, Math.Max(frames, 1)).ToArray();
        foreach (var strategy in request.MaskStrategies)
        {
            var problemsBefore = problems.Count;
            void Problem(string what) => problems.Add($"In the mask strategy '{strategy}', {what}.");
            if (strategy.Problem() is { } problem)
            {
                Problem(problem);
                continue;
            }
            if (strategy.EditRatio == 1)
            {
                Problem("the edit ratio is 1, which discards the frames; omit it or use a smaller value");
            }

            if (strategy.Loop != 0)
            {
                Problem($"the loop is {strategy.Loop}; it must be 0. To continue, make another request conditioned on the end of this video");
            }

            if (strategy.Reference >= request.References.Count)
            {
                Problem($"the reference is {strategy.Reference}, but the request has {request.References.Count} (counted from 0)");
                continue;
            }
            var reference = request.References[strategy.Reference];
            var (from, to) = (Place(strategy.ReferenceStart, reference.Count, "reference"), Place(strategy.TargetStart, frames, "video"));
            if (problems.Count > problemsBefore)
            {
                continue;
            }

            var length = Math.Min(strategy.Length, Math.Min(frames - to, reference.Count - from)) / group * group;
            if (length == 0 || to % group != 0)
            {
                Problem($"the target does not start at a multiple of {group} or is shorter; the autoencoder encodes {group} frames at a time");
                continue;
            }
            given.Add(new GivenFrames(reference.Slice(from, length), to / group, strategy.EditRatio));
            Array.Fill(share, strategy.EditRatio, to, length);

            int Place(int start, int count, string what)
            {
                var place = start < 0 ? count + start : start;
                if (place < 0 || place >= count)
                {
                    Problem($"frame {start} of the {what} does not exist; it has {count} frames");
                }

                return place;
            }
        }
        if (share.All(part => part == 0))
        {
            problems.Add("Every frame is a conditioning frame, so there is nothing to generate. Increase Frames, or use an edit ratio above 0.");
        }

        return given;
    }

    /// <summary>Encodes conditioning frames and inserts their latents into the initial noise.</summary>
    /// <param name="given">The conditioning frames.</param>
    /// <param name="noise">The initial noise of the latents, <c>[1, channels, frames, height, width]</c>.</param>
    /// <param name="settings">The settings with the height and width of the video in pixels.</param>
    /// <param name="vae">The autoencoder.</param>
    /// <param name="generator">The random number generator for sampling from the autoencoder's distribution.</param>
    /// <param name="progress">Receives the number of encoded frames.</param>
    /// <param name="cancellationToken">Checked before each group of frames.</param>
    /// <returns>The inputs of <see cref="Sampling.SampleFrames"/>: the latents, and for each frame the fraction of the denoising process to
    /// apply, <c>[1, frames]</c>.</returns>
    internal static (Tensor Latents, Tensor Share) Into(
        IReadOnlyList<GivenFrames> given,
        Tensor noise,
        ResolvedSettings settings,
        IVideoAutoencoder vae,
        Generator generator,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        using var scope = NewDisposeScope();
        var (done, all) = (0, given.Sum(part => part.Frames.Count));
        void Report(int frames)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.EncodingReferences, done, all));
            done += frames;
        }

        var references = given.Select(part => Encode(part.Frames, noise, settings, vae, generator, Report)[0]).ToList();
        progress?.Report(new(GenerationStage.EncodingReferences, all, all));
        var strategies = given
            .Select(
                (part, i) =>
                    new MaskStrategy
                    {
                        Reference = i,
                        TargetStart = part.LatentFrame,
                        Length = int.MaxValue,
                        EditRatio = part.EditRatio,
                    }
            )
            .ToList();
        var (video, share) = MaskStrategy.Apply(noise[0], references, strategies);
        return (video.unsqueeze(0).MoveToOuterDisposeScope(), share.unsqueeze(0).MoveToOuterDisposeScope());
    }

    /// <summary>Encodes frames, a few at a time.</summary>
    /// <param name="frames">The frames, of any size in pixels.</param>
    /// <param name="noise">The noise of the video: latents have its device and its size.</param>
    /// <param name="settings">The settings with the height and width of the video in pixels.</param>
    /// <param name="vae">The autoencoder.</param>
    /// <param name="generator">The random number generator for sampling from the autoencoder's distribution; null for its mean.</param>
    /// <param name="before">Called before each piece, with its number of frames.</param>
    /// <returns>Latents <c>[1, channels, frames, height, width]</c>, float32.</returns>
    internal static Tensor Encode(
        VideoFrames frames,
        Tensor noise,
        ResolvedSettings settings,
        IVideoAutoencoder vae,
        Generator? generator,
        Action<int> before
    )
    {
        using var scope = NewDisposeScope();
        var atOnce = vae.TemporalFactor == 1 ? EncodedAtOnce : frames.Count;
        List<Tensor> pieces = [];
        for (var frame = 0; frame < frames.Count; frame += atOnce)
        {
            var part = frames.Slice(frame, Math.Min(atOnce, frames.Count - frame));
            before(part.Count);
            using var piece = NewDisposeScope();
            var pixels = Cover(part.ToTensor(noise.device), settings.Height, settings.Width);
            var latents = vae.Encode(pixels, generator);
            CheckLatents(latents, pixels, noise, vae);
            pieces.Add(latents.to_type(ScalarType.Float32).MoveToOuterDisposeScope());
        }
        return cat(pieces, 2).MoveToOuterDisposeScope();
    }

    private static void CheckLatents(Tensor latents, Tensor pixels, Tensor noise, IVideoAutoencoder vae)
    {
        long[] expected = [1, noise.shape[1], pixels.shape[2] / vae.TemporalFactor, noise.shape[3], noise.shape[4]];
        if (!latents.shape.AsSpan().SequenceEqual(expected))
        {
            throw new InvalidOperationException(
                $"The autoencoder {vae.GetType().Name} encoded pixels of shape {Shapes.Text(pixels)} to latents of shape {Shapes.Text(latents)}; "
                    + $"by its factors, {Shapes.Text(expected)} is expected."
            );
        }
    }

    /// <summary>Scales a video to cover the given size, keeping its aspect ratio, and crops it at the center.</summary>
    /// <param name="video">The video, <c>[1, 3, frames, height, width]</c>.</param>
    /// <param name="height">The target height in pixels.</param>
    /// <param name="width">The target width in pixels.</param>
    /// <returns>The video, <c>[1, 3, frames, height, width]</c>; the input itself if it already has this size.</returns>
    internal static Tensor Cover(Tensor video, int height, int width)
    {
        if (video.shape[3] == height && video.shape[4] == width)
        {
            return video;
        }

        var scale = Math.Max((double)height / video.shape[3], (double)width / video.shape[4]);
        long Scaled(int axis, int least) => Math.Max(least, (long)Math.Round(video.shape[axis] * scale));
        var (h, w) = (Scaled(3, height), Scaled(4, width));
        return Scoped(() =>
        {
            var frames = video[0].transpose(0, 1); // [frames, 3, height, width]
            frames = nn.functional.interpolate(frames, [h, w], mode: InterpolationMode.Bilinear, align_corners: false, antialias: true);
            return frames.narrow(2, (h - height) / 2, height).narrow(3, (w - width) / 2, width).transpose(0, 1).unsqueeze(0).contiguous();
        });
    }
}
