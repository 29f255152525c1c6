using System.Drawing;
using OpenSora.Runtime;
using TorchSharp;
using static OpenSora.Runtime.Scopes;
using static TorchSharp.torch;

namespace OpenSora.Media;

/// <summary>A decoded video in managed memory: RGB24 pixels with the layout <c>[frames, height, width, 3]</c>, and a frame rate. An image is a
/// video of one frame.</summary>
public sealed partial class VideoFrames
{
    /// <summary>Initializes a video from existing pixels without copying them.</summary>
    /// <param name="pixels">The RGB24 pixels, <c>count * height * width * 3</c> bytes.</param>
    /// <param name="count">The number of frames, at least 1.</param>
    /// <param name="height">The height in pixels.</param>
    /// <param name="width">The width in pixels.</param>
    /// <param name="framesPerSecond">The frame rate in frames per second, above 0.</param>
    /// <exception cref="ArgumentException">The number of bytes does not match the sizes.</exception>
    public VideoFrames(Memory<byte> pixels, int count, int height, int width, double framesPerSecond)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(height, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(width, 1);
        if (!double.IsFinite(framesPerSecond) || framesPerSecond <= 0)
        {
            throw new ArgumentOutOfRangeException(nameof(framesPerSecond), framesPerSecond, "The frame rate must be a finite number above 0.");
        }

        if (pixels.Length != (long)count * height * width * 3)
        {
            throw new ArgumentException(
                $"{count} frames of {width}x{height} RGB pixels are {(long)count * height * width * 3} bytes, but {pixels.Length} were passed.",
                nameof(pixels)
            );
        }

        (Pixels, Count, Height, Width, FramesPerSecond) = (pixels, count, height, width, framesPerSecond);
    }

    /// <summary>Gets the RGB24 pixels, <c>[frames, height, width, 3]</c>.</summary>
    public Memory<byte> Pixels { get; }

    /// <summary>Gets the number of frames.</summary>
    public int Count { get; }

    /// <summary>Gets the height in pixels.</summary>
    public int Height { get; }

    /// <summary>Gets the width in pixels.</summary>
    public int Width { get; }

    /// <summary>Gets the frame rate in frames per second.</summary>
    public double FramesPerSecond { get; }

    /// <summary>Gets the size of one frame in bytes.</summary>
    public int FrameBytes => Height * Width * 3;

    /// <summary>Gets the duration of the video.</summary>
    public TimeSpan Duration => TimeSpan.FromSeconds(Count / FramesPerSecond);

    /// <summary>Returns the pixels of one frame, <c>[height, width, 3]</c>, without copying them.</summary>
    /// <param name="index">The index of the frame, starting at 0.</param>
    public Memory<byte> Frame(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);
        return Pixels.Slice(index * FrameBytes, FrameBytes);
    }

    /// <summary>Returns a range of frames as a video that shares the same memory.</summary>
    /// <param name="start">The index of the first frame.</param>
    /// <param name="count">The number of frames.</param>
    public VideoFrames Slice(int start, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, Count - start);
        return new VideoFrames(Pixels.Slice(start * FrameBytes, count * FrameBytes), count, Height, Width, FramesPerSecond);
    }

    /// <summary>Creates a mask for this video: white pixels in a region of some frames, and black pixels elsewhere.</summary>
    /// <param name="region">The region in pixels; null for the whole frame. The part outside the frame is ignored.</param>
    /// <param name="frames">The frames, such as <c>8..</c>; null for all of them.</param>
    /// <returns>A video of the size of this one.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The range is not within the video.</exception>
    public VideoFrames Mask(Rectangle? region = null, Range? frames = null)
    {
        var (first, count) = (frames ?? Range.All).GetOffsetAndLength(Count);
        var area = Rectangle.Intersect(region ?? new Rectangle(0, 0, Width, Height), new Rectangle(0, 0, Width, Height));
        var mask = new VideoFrames(new byte[Pixels.Length], Count, Height, Width, FramesPerSecond);
        for (var i = first; i < first + count; i++)
        {
            for (var y = area.Top; y < area.Bottom; y++)
            {
                mask.Frame(i).Span.Slice((y * Width + area.Left) * 3, area.Width * 3).Fill(255);
            }
        }

        return mask;
    }

    /// <summary>Converts a tensor with values in [-1, 1] to a video. As in Open-Sora, values are clamped, mapped to [0, 1], multiplied by 255,
    /// increased by 0.5 and truncated.</summary>
    /// <param name="video">A floating-point tensor <c>[3, frames, height, width]</c> or <c>[1, 3, frames, height, width]</c>; not modified.</param>
    /// <param name="framesPerSecond">The frame rate in frames per second, above 0.</param>
    /// <exception cref="ArgumentException">The tensor has a different shape.</exception>
    public static VideoFrames FromTensor(Tensor video, double framesPerSecond)
    {
        ArgumentNullException.ThrowIfNull(video);
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var frames = video.dim() == 5 && video.shape[0] == 1 ? video.squeeze(0) : video;
        if (frames.dim() != 4 || frames.shape[0] != 3)
        {
            throw new ArgumentException(
                $"Expected a tensor of shape [3, frames, height, width] or [1, 3, frames, height, width], got [{string.Join(", ", video.shape)}].",
                nameof(video)
            );
        }

        var (count, height, width) = ((int)frames.shape[1], (int)frames.shape[2], (int)frames.shape[3]);
        var pixels = new byte[3L * count * height * width];
        CopyPixels(frames, pixels);
        return new VideoFrames(pixels, count, height, width, framesPerSecond);
    }

    /// <summary>Converts the frames of a tensor as <see cref="FromTensor"/> does.</summary>
    /// <param name="frames">A floating-point tensor <c>[3, frames, height, width]</c>; not modified.</param>
    /// <param name="pixels">Receives the pixels, <c>[frames, height, width, 3]</c>.</param>
    internal static void CopyPixels(Tensor frames, Span<byte> pixels)
    {
        using var noGrad = no_grad();
        using var scope = NewDisposeScope();
        var bytes = frames
            .to(float32)
            .Clamp(-1, 1)
            .Plus(1)
            .Over(2)
            .Times(255)
            .Plus(0.5)
            .Clamp(0, 255)
            .to(uint8)
            .permute(1, 2, 3, 0)
            .contiguous()
            .cpu();
        bytes.bytes.CopyTo(pixels);
    }

    /// <summary>Converts the video to a tensor with values in [-1, 1].</summary>
    /// <param name="device">The device of the tensor; null for the CPU.</param>
    /// <returns>A float32 tensor <c>[1, 3, frames, height, width]</c>, owned by the caller.</returns>
    public Tensor ToTensor(Device? device = null)
    {
        return Scoped(() =>
        {
            var bytes = empty([Count, Height, Width, 3], uint8);
            Pixels.Span.CopyTo(bytes.bytes);
            return bytes.to(device ?? CPU).permute(3, 0, 1, 2).unsqueeze(0).to(float32).Over(255).Minus(0.5).Over(0.5).contiguous();
        });
    }
}
