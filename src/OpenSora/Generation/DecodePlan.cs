using OpenSora.Models;

namespace OpenSora.Generation;

/// <summary>The pieces in which a video is decoded.</summary>
/// <param name="Frames">The number of latent frames of a piece.</param>
/// <param name="Rows">The number of tiles along the height.</param>
/// <param name="Columns">The number of tiles along the width.</param>
internal readonly record struct DecodePlan(int Frames, int Rows, int Columns)
{
    /// <summary>The number of latent positions by which neighboring tiles overlap at least. The statistics of normalization layers and attention
    /// differ between tiles, so the pixels change gradually from one tile to the other.</summary>
    internal const int Overlap = 8;

    /// <summary>The minimum height and width of a tile in latent positions, so that a tile is not mostly overlap.</summary>
    internal const int MinTile = 3 * Overlap;

    /// <summary>Lists the plans for a video from the largest pieces to the smallest. Pieces have fewer frames before there are tiles, because this
    /// does not change the pixels, unless the autoencoder mixes frames.</summary>
    /// <param name="autoencoder">The autoencoder.</param>
    /// <param name="frames">The number of latent frames.</param>
    /// <param name="height">The number of latent rows.</param>
    /// <param name="width">The number of latent columns.</param>
    internal static IEnumerable<DecodePlan> All(IVideoAutoencoder autoencoder, int frames, int height, int width)
    {
        var plan = new DecodePlan(Math.Clamp(autoencoder.FramesAtOnce, 1, frames), 1, 1);
        yield return plan;
        while (!autoencoder.MixesFrames && plan.Frames > 1)
        {
            plan = plan with { Frames = (plan.Frames + 1) / 2 };
            yield return plan;
        }

        while (plan.Split(height, width) is { } smaller)
        {
            plan = smaller;
            yield return plan;
        }

        while (autoencoder.TemporalFactor == 1 && plan.Frames > 1)
        {
            plan = plan with { Frames = (plan.Frames + 1) / 2 };
            yield return plan;
        }
    }

    /// <summary>The height and width of the largest tile.</summary>
    /// <param name="height">The number of latent rows of the video.</param>
    /// <param name="width">The number of latent columns of the video.</param>
    internal (int Height, int Width) Tile(int height, int width) => (Side(height, Rows), Side(width, Columns));

    /// <summary>The number of latent values of the largest piece, in each channel.</summary>
    /// <param name="height">The number of latent rows of the video.</param>
    /// <param name="width">The number of latent columns of the video.</param>
    internal long Positions(int height, int width) => (long)Frames * Side(height, Rows) * Side(width, Columns);

    /// <summary>Computes the places of the tiles along an axis.</summary>
    /// <param name="length">The length of the axis.</param>
    /// <param name="count">The number of tiles.</param>
    /// <returns>The start of each tile, and their common size.</returns>
    internal static (int[] Starts, int Size) Along(int length, int count)
    {
        var size = Side(length, count);
        return ([.. Enumerable.Range(0, count).Select(i => count == 1 ? 0 : (int)((long)i * (length - size) / (count - 1)))], size);
    }

    // The longer side of the tiles is divided first.
    private DecodePlan? Split(int height, int width)
    {
        var (tall, wide) = (this with { Rows = Rows + 1 }, this with { Columns = Columns + 1 });
        bool canBeTall = Side(height, tall.Rows) >= MinTile,
            canBeWide = Side(width, wide.Columns) >= MinTile;
        return canBeTall && (!canBeWide || Side(height, Rows) >= Side(width, Columns)) ? tall
            : canBeWide ? wide
            : null;
    }

    private static int Side(int length, int count) => (length + (count - 1) * Overlap + count - 1) / count;
}
