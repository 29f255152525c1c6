using OpenSora.Media;
using OpenSora.Models;
using OpenSora.Runtime;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Generation;

/// <summary>Decodes the latents of videos to frames in managed memory, piece by piece, so that neither the memory of the autoencoder nor that of
/// floating-point pixels grows with the length of the video. If a frame is too large, it is divided into tiles.</summary>
/// <param name="autoencoder">The autoencoder; null if the latents are pixels.</param>
internal sealed class LatentDecoder(IVideoAutoencoder? autoencoder)
{
    // The fraction of the available memory that decoding may use by default. The rest is for other requests, for the frames and for file caches.
    private const double Fraction = 0.5;

    /// <summary>The memory in bytes that the autoencoder may use in addition to its weights; null for a fraction of the available memory.</summary>
    internal long? Memory { get; init; }

    /// <summary>Receives a sentence when memory runs out and decoding continues in smaller pieces.</summary>
    internal Action<string>? Warn { get; init; }

    /// <summary>Decodes latents.</summary>
    /// <param name="latents">Scaled latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <param name="framesPerSecond">The frame rate of the videos.</param>
    /// <param name="check">Checks the pixels of each piece, <c>[batch, 3, frames, height, width]</c>, before they are converted.</param>
    /// <param name="progress">Receives the number of decoded latent frames.</param>
    /// <param name="cancellationToken">Checked before each piece and tile.</param>
    /// <param name="decoded">Receives the frames of each piece, once for each video of the batch, and the index of the first of them. They share
    /// their memory with the result.</param>
    /// <returns>The videos of the batch.</returns>
    /// <exception cref="DecodingException">The autoencoder failed, or memory ran out with the smallest pieces.</exception>
    internal IReadOnlyList<VideoFrames> Decode(
        Tensor latents,
        double framesPerSecond,
        Action<Tensor>? check = null,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default,
        Action<VideoFrames, int>? decoded = null
    )
    {
        var (temporal, spatial) = (autoencoder?.TemporalFactor ?? 1, autoencoder?.SpatialFactor ?? 1);
        var (frames, height, width) = ((int)latents.shape[2], (int)latents.shape[3], (int)latents.shape[4]);
        var videos = Enumerable
            .Range(0, (int)latents.shape[0])
            .Select(_ => Empty(frames * temporal, height * spatial, width * spatial, framesPerSecond))
            .ToList();
        progress = autoencoder is null ? null : progress;
        var plan = autoencoder is null ? new DecodePlan(1, 1, 1) : Plan(autoencoder, latents.shape, Budget(latents.device));
        for (var frame = 0; frame < frames; )
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Decoding, frame, frames));
            using var scope = NewDisposeScope();
            var piece = latents.narrow(2, frame, Math.Min(plan.Frames, frames - frame));
            Tensor pixels;
            try
            {
                pixels = autoencoder is null ? piece : Tiles(autoencoder, piece, plan, cancellationToken);
            }
            catch (Exception exception) when (exception is Failure { InnerException: { } inner } && OutOfMemory.Is(inner))
            {
                plan = Smaller(plan, latents, exception.InnerException!);
                continue;
            }
            catch (Failure failure)
            {
                throw new DecodingException($"The autoencoder failed: {failure.InnerException!.Message}", failure.InnerException, latents);
            }

            check?.Invoke(pixels);
            var (first, count) = (frame * temporal, (int)pixels.shape[2]);
            for (var i = 0; i < videos.Count; i++)
            {
                var slice = videos[i].Slice(first, count);
                VideoFrames.CopyPixels(pixels[i], slice.Pixels.Span);
                decoded?.Invoke(slice, first);
            }

            frame += (int)piece.shape[2];
        }

        progress?.Report(new(GenerationStage.Decoding, frames, frames));
        cancellationToken.ThrowIfCancellationRequested();
        return videos;
    }

    /// <summary>Chooses the largest pieces that need no more memory than the budget; the smallest ones if none do.</summary>
    /// <param name="autoencoder">The autoencoder. If its memory is not known in advance, the pieces are the largest ones.</param>
    /// <param name="latents">The shape of the latents, <c>[batch, channels, frames, height, width]</c>.</param>
    /// <param name="budget">The budget in bytes; null for no limit.</param>
    internal static DecodePlan Plan(IVideoAutoencoder autoencoder, long[] latents, double? budget)
    {
        var plans = DecodePlan.All(autoencoder, (int)latents[2], (int)latents[3], (int)latents[4]);
        if (budget is null || autoencoder is not ICosted costed)
        {
            return plans.First();
        }

        var last = default(DecodePlan);
        foreach (var plan in plans)
        {
            last = plan;
            if (Cost(costed, latents, plan).Bytes <= budget)
            {
                break;
            }
        }

        return last;
    }

    /// <summary>Computes the memory of decoding one piece, and the operations of decoding the whole video.</summary>
    internal static NetworkCost Cost(ICosted autoencoder, long[] latents, DecodePlan plan)
    {
        var (height, width) = plan.Tile((int)latents[3], (int)latents[4]);
        var frames = Math.Min(plan.Frames, latents[2]);
        var cost = autoencoder.Cost(new(latents[0], frames, height, width));
        return cost with { Flops = cost.Flops.Times(plan.Rows * plan.Columns * (double)latents[2] / frames) };
    }

    internal double? Budget(Device device) =>
        Memory is { } memory ? memory
        : device.type == DeviceType.CPU ? Fraction * MachineMemory.Read().Available
        : null; // TorchSharp does not report the memory of a GPU

    // Decodes a piece tile by tile. Between neighboring tiles, the pixels change linearly from one tile to the other.
    internal static Tensor Tiles(IVideoAutoencoder autoencoder, Tensor latents, DecodePlan plan, CancellationToken cancellationToken)
    {
        if (plan is { Rows: 1, Columns: 1 })
        {
            return Call(autoencoder, latents);
        }

        var (shape, factor) = (latents.shape, autoencoder.SpatialFactor);
        var (rows, height) = DecodePlan.Along((int)shape[3], plan.Rows);
        var (columns, width) = DecodePlan.Along((int)shape[4], plan.Columns);
        Tensor? canvas = null;
        foreach (var (row, vertical) in rows.Zip(Ramps(rows, height, factor)))
        {
            foreach (var (column, horizontal) in columns.Zip(Ramps(columns, width, factor)))
            {
                cancellationToken.ThrowIfCancellationRequested();
                using var scope = NewDisposeScope();
                var tile = Call(autoencoder, latents.narrow(3, row, height).narrow(4, column, width).contiguous());
                var weights = tensor(vertical, device: tile.device).view(-1, 1) * tensor(horizontal, device: tile.device);
                var sizes = tile.shape;
                canvas ??= zeros([.. sizes[..3], shape[3] * factor, shape[4] * factor], tile.dtype, tile.device).MoveToOuterDisposeScope();
                canvas.narrow(3, row * factor, height * factor).narrow(4, column * factor, width * factor).AddInPlace(tile * weights.to(tile.dtype));
            }
        }

        return canvas!;
    }

    // The weights of the pixels of each tile along an axis. They rise and fall in the overlaps, and sum up to 1 everywhere.
    private static IEnumerable<float[]> Ramps(int[] starts, int size, int factor)
    {
        for (var tile = 0; tile < starts.Length; tile++)
        {
            var weights = new float[size * factor];
            Array.Fill(weights, 1);
            var before = tile == 0 ? 0 : (starts[tile - 1] + size - starts[tile]) * factor;
            for (var i = 0; i < before; i++)
            {
                weights[i] = (i + 0.5f) / before;
            }

            var after = tile == starts.Length - 1 ? 0 : (starts[tile] + size - starts[tile + 1]) * factor;
            for (var i = 0; i < after; i++)
            {
                weights[^(i + 1)] = (i + 0.5f) / after;
            }

            yield return weights;
        }
    }

    private static Tensor Call(IVideoAutoencoder autoencoder, Tensor latents)
    {
        Tensor pixels;
        try
        {
            pixels = autoencoder.Decode(latents);
        }
        catch (Exception exception) when (exception is not OperationCanceledException)
        {
            throw new Failure(exception);
        }

        CheckPixels(pixels, latents, autoencoder);
        return pixels;
    }

    private DecodePlan Smaller(DecodePlan plan, Tensor latents, Exception cause)
    {
        var (frames, height, width) = ((int)latents.shape[2], (int)latents.shape[3], (int)latents.shape[4]);
        var positions = plan.Positions(height, width);
        var smaller = DecodePlan
            .All(autoencoder!, frames, height, width)
            .SkipWhile(other => other != plan)
            .Skip(1)
            .Where(other => other.Positions(height, width) < positions)
            .ToList();
        var asked = OutOfMemory.Requested(cause) is { } amount ? $": {amount} could not be allocated" : "";
        if (smaller.Count == 0)
        {
            throw new DecodingException(
                $"Memory ran out while decoding {Words(plan)}{asked}, and smaller pieces are not possible. The latents are kept: free memory, for "
                    + $"example by waiting for other requests, then call {nameof(DecodingException.DecodeAsync)}. Otherwise, request a smaller "
                    + "height or width, or set Precision to bfloat16.",
                cause,
                latents
            );
        }

        // The first one of at most half the size, or the smallest.
        var next = smaller.FindIndex(other => 2 * other.Positions(height, width) <= positions) is >= 0 and var index ? smaller[index] : smaller[^1];
        Warn?.Invoke($"Memory ran out while decoding {Words(plan)}{asked}. Decoding continues with {Words(next)}.");
        return next;

        string Words(DecodePlan plan)
        {
            var tile = plan.Tile(height, width);
            var count = plan.Frames * autoencoder!.TemporalFactor;
            return $"{count} frame{(count == 1 ? "" : "s")} of {tile.Width * autoencoder.SpatialFactor}x"
                + $"{tile.Height * autoencoder.SpatialFactor} pixels at a time";
        }
    }

    internal static VideoFrames Empty(int frames, int height, int width, double framesPerSecond)
    {
        var bytes = 3L * frames * height * width;
        return bytes <= Array.MaxLength
            ? new VideoFrames(new byte[bytes], frames, height, width, framesPerSecond)
            : throw OutOfMemory.Insufficient(
                $"{frames} frames of {width}x{height} pixels are {Sizes.Text(bytes)}; a video in memory can have at most "
                    + $"{Sizes.Text(Array.MaxLength)}. Request fewer frames or a smaller size."
            );
    }

    private static void CheckPixels(Tensor pixels, Tensor latents, IVideoAutoencoder autoencoder)
    {
        var shape = latents.shape;
        long[] expected =
        [
            shape[0],
            3,
            shape[2] * autoencoder.TemporalFactor,
            shape[3] * autoencoder.SpatialFactor,
            shape[4] * autoencoder.SpatialFactor,
        ];
        if (!pixels.shape.AsSpan().SequenceEqual(expected))
        {
            throw new InvalidOperationException(
                $"The autoencoder {autoencoder.GetType().Name} decoded latents of shape {Shapes.Text(shape)} to pixels of shape "
                    + $"{Shapes.Text(pixels)}; by its factors, {Shapes.Text(expected)} is expected."
            );
        }
    }

    // An exception of the autoencoder, as opposed to those of this class.
    private sealed class Failure(Exception inner) : Exception(inner.Message, inner);
}
