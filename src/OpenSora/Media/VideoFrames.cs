using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Media;

/// <summary>Decoded video in managed memory: RGB24 pixels laid out <c>[frames, height, width, 3]</c>, and a frame rate. A picture is a video of one
/// frame.</summary>
public sealed class VideoFrames
{
    /// <summary>Wraps pixels without copying them.</summary>
    /// <param name="pixels">RGB24, <c>count * height * width * 3</c> bytes.</param>
    /// <param name="count">Frames, at least 1.</param>
    /// <param name="height">Pixels.</param>
    /// <param name="width">Pixels.</param>
    /// <param name="framesPerSecond">The frame rate, above 0.</param>
    /// <exception cref="ArgumentException">The sizes and the number of bytes do not fit together.</exception>
    public VideoFrames(Memory<byte> pixels, int count, int height, int width, double framesPerSecond)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        if (!double.IsFinite(framesPerSecond) || framesPerSecond <= 0)
        {
            throw new ArgumentOutOfRangeException(nameof(framesPerSecond), framesPerSecond, "A frame rate is a number above 0.");
        }

        if (pixels.Length != (long)count * height * width * 3)
        {
            throw new ArgumentException(
                $"{count} frames of {width}x{height} RGB pixels are {(long)count * height * width * 3} bytes, but {pixels.Length} were given.",
                nameof(pixels)
            );
        }

        (Pixels, Count, Height, Width, FramesPerSecond) = (pixels, count, height, width, framesPerSecond);
    }

    /// <summary>All pixels, RGB24, <c>[frames, height, width, 3]</c>.</summary>
    public Memory<byte> Pixels { get; }

    /// <summary>Number of frames.</summary>
    public int Count { get; }

    /// <summary>Height in pixels.</summary>
    public int Height { get; }

    /// <summary>Width in pixels.</summary>
    public int Width { get; }

    /// <summary>Frames shown in a second.</summary>
    public double FramesPerSecond { get; }

    /// <summary>Bytes of one frame.</summary>
    public int FrameBytes => Height * Width * 3;

    /// <summary>How long the video plays.</summary>
    public TimeSpan Duration => TimeSpan.FromSeconds(Count / FramesPerSecond);

    /// <summary>The pixels of one frame, <c>[height, width, 3]</c>.</summary>
    /// <param name="index">From 0.</param>
    public Memory<byte> Frame(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);
        return Pixels.Slice(index * FrameBytes, FrameBytes);
    }

    /// <summary>A part of the video, over the same memory.</summary>
    /// <param name="start">First frame.</param>
    /// <param name="count">Frames.</param>
    public VideoFrames Slice(int start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, Count - start);
        return new VideoFrames(Pixels.Slice(start * FrameBytes, count * FrameBytes), count, Height, Width, FramesPerSecond);
    }

    /// <summary>Rounds pixels in [-1, 1] to bytes as Open-Sora does: clamped, taken to [0, 1], times 255 plus one half, truncated.</summary>
    /// <param name="video">Floating point <c>[3, frames, height, width]</c>, or the same with a batch of one before it; not changed.</param>
    /// <param name="framesPerSecond">The frame rate, above 0.</param>
    /// <exception cref="ArgumentException">The tensor has another shape.</exception>
    public static VideoFrames FromTensor(Tensor video, double framesPerSecond)
    {
        ArgumentNullException.ThrowIfNull(video);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var frames = video.dim() == 5 && video.shape[0] == 1 ? video.squeeze(0) : video;
        if (frames.dim() != 4 || frames.shape[0] != 3)
        {
            throw new ArgumentException(
                $"Expected a video [3, frames, height, width] or [1, 3, frames, height, width], got [{string.Join(", ", video.shape)}].",
                nameof(video)
            );
        }

        var (count, height, width) = ((int)frames.shape[1], (int)frames.shape[2], (int)frames.shape[3]);
        using var bytes = frames
            .to(float32)
            .clamp(-1, 1)
            .add(1)
            .div(2)
            .mul(255)
            .add(0.5)
            .clamp(0, 255)
            .to(uint8)
            .permute(1, 2, 3, 0)
            .contiguous()
            .cpu();
        return new VideoFrames(bytes.bytes.ToArray(), count, height, width, framesPerSecond);
    }

    /// <summary>The pixels as a tensor in [-1, 1].</summary>
    /// <param name="device">Where to; null = the CPU.</param>
    /// <returns>float32 <c>[1, 3, frames, height, width]</c>, owned by the caller.</returns>
    public Tensor ToTensor(Device? device = null)
    {
        using var scope = NewDisposeScope();
        var bytes = empty([Count, Height, Width, 3], uint8);
        Pixels.Span.CopyTo(bytes.bytes);
        return bytes.to(device ?? CPU).permute(3, 0, 1, 2).unsqueeze(0).to(float32).div(255).sub(0.5).div(0.5).contiguous().MoveToOuterDisposeScope();
    }
}
