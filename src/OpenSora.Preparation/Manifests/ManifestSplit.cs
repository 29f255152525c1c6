using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using System.Threading.Channels;

namespace OpenSora.Preparation.Manifests;

/// <summary>Specifies how rows are divided into training and validation data.</summary>
public sealed class SplitOptions
{
    /// <summary>Gets or sets the fraction of the files for validation, from 0 to 1.</summary>
    public double ValidationFraction { get; set; } = 0.05;

    /// <summary>Gets or sets the folder to which paths are relative; null for the current folder.</summary>
    public string? Folder { get; set; }

    /// <summary>Gets or sets a function that returns the text that decides where a row belongs, so that rows with the same text stay together, such as
    /// the clips of a video; null to use the contents of the file.</summary>
    public Func<ManifestRow, string>? Key { get; set; }

    /// <summary>Gets or sets text that is hashed with every file. Another text results in another division.</summary>
    public string Salt { get; set; } = "";

    /// <summary>Gets or sets the number of files that are read at the same time.</summary>
    public int Parallelism { get; set; } = Environment.ProcessorCount;
}

/// <summary>Divides manifests into training and validation data.</summary>
public static class ManifestSplit
{
    private const int Buffered = 1024;

    /// <summary>Writes rows to two manifests, by a hash of the contents of each file. A file always belongs to the same side, whatever other files
    /// there are and whatever its name is, and so do copies of it.</summary>
    /// <param name="rows">The rows.</param>
    /// <param name="training">The path of the manifest for training.</param>
    /// <param name="validation">The path of the manifest for validation.</param>
    /// <param name="options">Specifies the division; null for the default.</param>
    /// <param name="dropped">Counts files that cannot be read, by the stage <c>split</c>. If null, the first such file causes an exception.</param>
    /// <param name="cancellationToken">Stops reading.</param>
    /// <returns>The numbers of rows.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The fraction is not between 0 and 1.</exception>
    /// <exception cref="PreparationException">A file cannot be read, and <paramref name="dropped"/> is null.</exception>
    public static async Task<(long Training, long Validation)> SplitAsync(
        this IAsyncEnumerable<ManifestRow> rows,
        string training,
        string validation,
        SplitOptions? options = null,
        DropReport? dropped = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(rows);
        options ??= new SplitOptions();
        var fraction = options.ValidationFraction;
        if (fraction is not (>= 0 and <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(options), fraction, "The fraction for validation must be between 0 and 1.");
        }

        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var sides = new[] { Channel.CreateBounded<ManifestRow>(Buffered), Channel.CreateBounded<ManifestRow>(Buffered) };
        var writers = new[] { WriteAsync(training, sides[0]), WriteAsync(validation, sides[1]) };
        try
        {
            await foreach (
                var (row, place) in rows.SelectAsync(options.Parallelism, (row, token) => PlaceAsync(row, options, dropped, token), stop.Token)
                    .ConfigureAwait(false)
            )
            {
                if (place is { } value)
                {
                    await sides[value < fraction ? 1 : 0].Writer.WriteAsync(row, stop.Token).ConfigureAwait(false);
                }
            }

            Array.ForEach(sides, side => side.Writer.Complete());
        }
        catch (Exception e)
        {
            Array.ForEach(sides, side => side.Writer.TryComplete(e));
            await stop.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(writers).ConfigureAwait(false); // throws what a writer failed with
            throw;
        }

        var counts = await Task.WhenAll(writers).ConfigureAwait(false);
        return (counts[0], counts[1]);

        async Task<long> WriteAsync(string path, Channel<ManifestRow> side)
        {
            try
            {
                return await Manifest.WriteAsync(path, side.Reader.ReadAllAsync(CancellationToken.None), null, CancellationToken.None).ConfigureAwait(false);
            }
            catch
            {
                await stop.CancelAsync().ConfigureAwait(false);
                throw;
            }
        }
    }

    // A number from 0 to 1 that depends only on the contents; null for a file that cannot be read.
    private static async Task<(ManifestRow Row, double? Place)> PlaceAsync(
        ManifestRow row,
        SplitOptions options,
        DropReport? dropped,
        CancellationToken cancellationToken
    )
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes(options.Salt));
        if (options.Key is not null)
        {
            hash.AppendData(Encoding.UTF8.GetBytes(options.Key(row)));
        }
        else
        {
            try
            {
                hash.AppendData(await ContentsAsync(ManifestFiles.Locate(options.Folder, row.Path), cancellationToken).ConfigureAwait(false));
            }
            catch (PreparationException e) when (dropped is not null)
            {
                dropped.Add("split", e.Reason);
                return (row, null);
            }
        }

        return (row, BinaryPrimitives.ReadUInt64BigEndian(hash.GetHashAndReset()) / (double)ulong.MaxValue);
    }

    private static async Task<byte[]> ContentsAsync(string file, CancellationToken cancellationToken)
    {
        try
        {
            var stream = File.OpenRead(file);
            await using var _ = stream.ConfigureAwait(false);
            return await SHA256.HashDataAsync(stream, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new PreparationException("file cannot be read", $"'{file}' cannot be read: {e.Message}", e);
        }
    }
}
