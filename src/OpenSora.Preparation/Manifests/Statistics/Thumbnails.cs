using System.Globalization;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Manifests;

/// <summary>Extracts small images of videos.</summary>
internal static class Thumbnails
{
    private const int LongestSide = 320;

    /// <summary>Extracts the frame in the middle of a video, or an image, as JPEG.</summary>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file cannot be decoded, or ffmpeg is missing.</exception>
    internal static async Task<byte[]> ExtractAsync(string file, string? ffmpegFolder, CancellationToken cancellationToken)
    {
        var source = await SourceProbe.ReadAsync(file, ffmpegFolder, cancellationToken).ConfigureAwait(false);
        var scale = Math.Min(1, (double)LongestSide / Math.Max(source.Width, source.Height));
        var (width, height) = (Even(source.Width * scale), Even(source.Height * scale));
        var middle = source.Duration?.TotalSeconds / 2 ?? 0;
        var image = await AtAsync(middle).ConfigureAwait(false);
        if (image.Length == 0 && middle > 0)
        {
            image = await AtAsync(0).ConfigureAwait(false); // the file is shorter than it says
        }

        return image.Length > 0 ? image : throw new PreparationException("no frames", $"No frame of '{file}' can be decoded.");

        static int Even(double length) => Math.Max(2, (int)Math.Round(length / 2) * 2);

        async Task<byte[]> AtAsync(double seconds)
        {
            using var output = new MemoryStream();
            string[] seek = seconds > 0 ? ["-ss", seconds.ToString("0.###", CultureInfo.InvariantCulture)] : [];
            await FFmpegProcess
                .RunAsync(
                    ffmpegFolder,
                    $"extract a thumbnail of '{file}'",
                    [
                        .. seek,
                        .. FFmpegProcess.Input(file),
                        "-map",
                        "0:v:0",
                        "-frames:v",
                        "1",
                        "-vf",
                        string.Create(CultureInfo.InvariantCulture, $"scale={width}:{height},setsar=1,format=yuvj420p"),
                        "-bitexact",
                        "-q:v",
                        "5",
                        "-f",
                        "mjpeg",
                        "pipe:1",
                    ],
                    (pipe, token) => pipe.CopyToAsync(output, token),
                    cancellationToken
                )
                .ConfigureAwait(false);
            return output.ToArray();
        }
    }
}
