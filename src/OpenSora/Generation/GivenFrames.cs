using OpenSora.Diffusion;
using OpenSora.Media;
using OpenSora.ModelFolders;
using OpenSora.Models;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Frames of a reference that a video begins with, ends with or has anywhere else.</summary>
/// <param name="Frames">The frames, of any size.</param>
/// <param name="LatentFrame">The first latent frame that they become.</param>
/// <param name="EditRatio">How much of them is made anew, from 0 to 1.</param>
internal sealed record GivenFrames(VideoFrames Frames, int LatentFrame, double EditRatio)
{
    // Frames encoded at a time where the autoencoder takes each frame on its own.
    private const int EncodedAtOnce = 4;

    /// <summary>Finds the frames that a request's mask strategies mean, and checks that the model can do it.</summary>
    /// <param name="request">The request.</param>
    /// <param name="frames">Frames of the video.</param>
    /// <param name="sampler">The sampler.</param>
    /// <param name="model">The model.</param>
    /// <param name="problems">Receives a sentence for each thing that is wrong.</param>
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
                $"References are given, but {name} was not trained to go on from given frames. Take a model that was, such as one of Open-Sora 1.1 or 1.2."
            );
        }

        if (sampler is not (SamplerKind.Iddpm or SamplerKind.RectifiedFlow))
        {
            problems.Add(
                $"References are given, but {sampler} cannot complete videos; use {(model.Description.Diffusion.Kind == DiffusionKind.RectifiedFlow ? SamplerKind.RectifiedFlow : SamplerKind.Iddpm)}."
            );
        }

        if (request.MaskStrategies.Count == 0)
        {
            problems.Add("References are given, but MaskStrategies does not say which of their frames go where; ConditionOn adds both.");
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
                Problem("the edit ratio is 1, at which nothing is left of the frames; leave it out, or take less");
            }

            if (strategy.Loop != 0)
            {
                Problem(
                    $"the loop is {strategy.Loop}; a request makes one part, whose loop is 0. For the next part make another request that goes on from the end of this one"
                );
            }

            if (strategy.Reference >= request.References.Count)
            {
                Problem($"the reference is {strategy.Reference}, but there are {request.References.Count}; they count from 0");
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
                Problem($"the frames do not begin at a multiple of {group}, or are fewer; the autoencoder encodes {group} at a time");
                continue;
            }
            given.Add(new GivenFrames(reference.Slice(from, length), to / group, strategy.EditRatio));
            Array.Fill(share, strategy.EditRatio, to, length);

            int Place(int start, int count, string what)
            {
                var place = start < 0 ? count + start : start;
                if (place < 0 || place >= count)
                {
                    Problem($"frame {start} of the {what} is meant, which has {count}");
                }

                return place;
            }
        }
        if (share.All(part => part == 0))
        {
            problems.Add("Every frame is given, so that there is nothing to generate. Ask for more Frames, or give some an edit ratio above 0.");
        }

        return given;
    }

    /// <summary>Puts the latents of given frames into noise.</summary>
    /// <param name="given">The frames.</param>
    /// <param name="noise">Noise of the video's latents, <c>[1, channels, frames, height, width]</c>.</param>
    /// <param name="settings">The video's size.</param>
    /// <param name="vae">The autoencoder.</param>
    /// <param name="generator">Source of the autoencoder's noise.</param>
    /// <param name="progress">Told of every frame.</param>
    /// <param name="cancellationToken">Looked at before every few frames.</param>
    /// <returns>What <see cref="IFrameSampler.SampleFrames"/> takes: latents, and the share of each frame to make anew.</returns>
    internal static (Tensor Latents, Tensor Share) Into(
        IReadOnlyList<GivenFrames> given,
        Tensor noise,
        PipelineSettings settings,
        IVideoAutoencoder vae,
        Generator generator,
        IProgress<GenerationProgress>? progress,
        CancellationToken cancellationToken
    )
    {
        using var scope = NewDisposeScope();
        var (done, all) = (0, given.Sum(part => part.Frames.Count));
        var latents = given.Select(Encode).ToList();
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
        var (video, share) = MaskStrategy.Apply(noise[0], latents, strategies);
        return (video.unsqueeze(0).MoveToOuterDisposeScope(), share.unsqueeze(0).MoveToOuterDisposeScope());

        Tensor Encode(GivenFrames part)
        {
            var atOnce = vae.TemporalFactor == 1 ? EncodedAtOnce : part.Frames.Count;
            List<Tensor> pieces = [];
            for (var frame = 0; frame < part.Frames.Count; frame += atOnce)
            {
                cancellationToken.ThrowIfCancellationRequested();
                progress?.Report(new(GenerationStage.EncodingReferences, done, all));
                using var piece = NewDisposeScope();
                var frames = part.Frames.Slice(frame, Math.Min(atOnce, part.Frames.Count - frame));
                var pixels = Cover(frames.ToTensor(noise.device), settings.Height, settings.Width);
                pieces.Add(vae.Encode(pixels, generator).to_type(ScalarType.Float32).MoveToOuterDisposeScope());
                done += frames.Count;
            }
            return cat(pieces, 2)[0];
        }
    }

    /// <summary>Scales a video until it covers a size, and keeps the middle.</summary>
    /// <param name="video"><c>[1, 3, frames, height, width]</c></param>
    /// <param name="height">The wanted height.</param>
    /// <param name="width">The wanted width.</param>
    internal static Tensor Cover(Tensor video, int height, int width)
    {
        if (video.shape[3] == height && video.shape[4] == width)
        {
            return video;
        }

        using var scope = NewDisposeScope();
        var scale = Math.Max((double)height / video.shape[3], (double)width / video.shape[4]);
        long Scaled(int axis, int least) => Math.Max(least, (long)Math.Round(video.shape[axis] * scale));
        var (h, w) = (Scaled(3, height), Scaled(4, width));
        var frames = video[0].transpose(0, 1); // [frames, 3, height, width]
        frames = nn.functional.interpolate(frames, [h, w], mode: InterpolationMode.Bilinear, align_corners: false, antialias: true);
        return frames
            .narrow(2, (h - height) / 2, height)
            .narrow(3, (w - width) / 2, width)
            .transpose(0, 1)
            .unsqueeze(0)
            .contiguous()
            .MoveToOuterDisposeScope();
    }
}
