using OpenSora.Media;
using OpenSora.Runtime;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>A video to begin with instead of noise.</summary>
/// <param name="Video">The existing video, or an image.</param>
/// <param name="Strength">The fraction of the denoising steps to apply.</param>
/// <param name="Mask">White for the part to generate, black for the part to keep; null to generate all of it.</param>
internal sealed record VideoEdit(VideoFrames Video, double Strength, VideoFrames? Mask)
{
    /// <summary>Checks the edit for a video of a number of frames, and returns one sentence for each problem.</summary>
    internal IEnumerable<string> Problems(int frames)
    {
        if (Strength is not (> 0 and <= 1))
        {
            yield return FormattableString.Invariant($"The strength is {Strength}; it must be above 0 and at most 1.");
        }

        if (Video.Count != 1 && Video.Count != frames)
        {
            yield return $"The existing video has {Video.Count} frames, but Frames is {frames}. Cut the video with Slice, set Frames to its length, "
                + "or pass a single image.";
        }

        if (Mask is null)
        {
            yield break;
        }

        if (Mask.Width != Video.Width || Mask.Height != Video.Height)
        {
            yield return $"The mask has {Mask.Width}x{Mask.Height} pixels, but the existing video has {Video.Width}x{Video.Height}; both must have "
                + "the same size.";
        }

        if (Mask.Count != 1 && Mask.Count != frames)
        {
            yield return $"The mask has {Mask.Count} frames; it must have one, or as many as the video ({frames}).";
        }
        else if (!Mask.Pixels.Span.ContainsAnyExcept((byte)0))
        {
            yield return "The mask is black everywhere, so nothing would be generated. White selects the part to generate.";
        }
    }

    /// <summary>Scales the video and the mask to the size of the generated video, and repeats an image for all frames.</summary>
    internal VideoEdit Fit(ResolvedSettings settings)
    {
        return this with { Video = Fitted(Video), Mask = Mask is null ? null : Fitted(Mask) };

        VideoFrames Fitted(VideoFrames frames)
        {
            using var noGradients = no_grad();
            using var scope = NewDisposeScope();
            if (frames.Height != settings.Height || frames.Width != settings.Width)
            {
                // A few frames at a time, because a float32 video takes four times the memory of its bytes.
                var (count, bytes) = (4, new byte[checked(frames.Count * settings.Height * settings.Width * 3)]);
                var scaled = new VideoFrames(bytes, frames.Count, settings.Height, settings.Width, frames.FramesPerSecond);
                for (var i = 0; i < frames.Count; i += count)
                {
                    using var piece = NewDisposeScope();
                    var part = frames.Slice(i, Math.Min(count, frames.Count - i)).ToTensor();
                    var covered = GivenFrames.Cover(part, settings.Height, settings.Width);
                    VideoFrames.FromTensor(covered, frames.FramesPerSecond).Pixels.CopyTo(scaled.Pixels[(i * scaled.FrameBytes)..]);
                }

                frames = scaled;
            }

            return frames.Count == settings.Frames ? frames : Repeated(frames, settings.Frames);
        }
    }

    private static VideoFrames Repeated(VideoFrames image, int count)
    {
        var pixels = new byte[checked(count * image.FrameBytes)];
        for (var i = 0; i < count; i++)
        {
            image.Pixels.CopyTo(pixels.AsMemory(i * image.FrameBytes));
        }

        return new VideoFrames(pixels, count, image.Height, image.Width, image.FramesPerSecond);
    }

    /// <summary>Finds the latents that a pixel of the mask belongs to.</summary>
    /// <param name="latents">The latents of the video, <c>[1, channels, frames, height, width]</c>.</param>
    /// <returns>True for latents to generate, <c>[1, 1, frames, height, width]</c>, in the caller's dispose scope; null without a mask.</returns>
    internal Tensor? LatentMask(Tensor latents)
    {
        if (Mask is null)
        {
            return null;
        }

        var (t, h, w) = (latents.shape[2], latents.shape[3], latents.shape[4]);
        return Scoped(() =>
        {
            var bytes = empty([Mask.Count, Mask.Height, Mask.Width, 3], uint8);
            Mask.Pixels.Span.CopyTo(bytes.bytes);
            var cells = bytes.select(3, 0).view(t, Mask.Count / t, h, Mask.Height / h, w, Mask.Width / w);
            return cells.amax([1, 3, 5]).GreaterThan(0).view(1, 1, t, h, w).to(latents.device);
        });
    }

    /// <summary>Puts the kept pixels of the video in the place of generated ones.</summary>
    /// <param name="generated">Generated frames, of the size of the video; changed in place.</param>
    /// <param name="first">The index in the video of the first of them.</param>
    internal void Restore(VideoFrames generated, int first)
    {
        if (Mask is null)
        {
            return;
        }

        var output = generated.Pixels.Span;
        var start = first * generated.FrameBytes;
        var kept = Video.Pixels.Span.Slice(start, output.Length);
        var mask = Mask.Pixels.Span.Slice(start, output.Length);
        for (var i = 0; i < output.Length; i++)
        {
            var weight = mask[i - i % 3]; // the red channel
            output[i] = (byte)((output[i] * weight + kept[i] * (255 - weight) + 127) / 255);
        }
    }
}
