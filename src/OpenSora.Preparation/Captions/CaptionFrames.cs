using System.Globalization;
using System.Security.Cryptography;
using OpenSora.Preparation.Media;
using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats.Jpeg;
using SixLabors.ImageSharp.PixelFormats;

namespace OpenSora.Preparation.Captions;

/// <summary>Some frames of a clip at a bounded size, as RGB24.</summary>
internal sealed record CaptionFrames(IReadOnlyList<byte[]> Pixels, int Width, int Height)
{
    // Longer videos are searched for their key frames; decoding a short clip from its start is faster than opening it once for each frame.
    private static readonly TimeSpan Short = TimeSpan.FromSeconds(60);

    /// <summary>Gets a hash of the pixels.</summary>
    public byte[] Hash()
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(BitConverter.GetBytes(Width));
        hash.AppendData(BitConverter.GetBytes(Height));
        foreach (var frame in Pixels)
        {
            hash.AppendData(frame);
        }

        return hash.GetHashAndReset();
    }

    /// <summary>Encodes each frame as JPEG.</summary>
    public IReadOnlyList<byte[]> SeparateImages(int quality) => [.. Pixels.Select(each => Jpeg(each, Width, Height, quality))];

    /// <summary>Encodes all frames as one JPEG: below each other if they are wider than high, otherwise side by side.</summary>
    public byte[] OnePicture(int quality)
    {
        if (IsStacked(Width, Height))
        {
            return Jpeg([.. Pixels.SelectMany(each => each)], Width, Height * Pixels.Count, quality);
        }

        var (row, count) = (Width * 3, Pixels.Count);
        var all = new byte[row * Height * count];
        for (var y = 0; y < Height; y++)
        {
            for (var i = 0; i < count; i++)
            {
                Pixels[i].AsSpan(y * row, row).CopyTo(all.AsSpan((y * count + i) * row));
            }
        }

        return Jpeg(all, Width * count, Height, quality);
    }

    /// <summary>Determines whether <see cref="OnePicture"/> places frames below each other.</summary>
    public static bool IsStacked(int width, int height) => width > height;

    /// <summary>Decodes frames at given positions. A clip with fewer frames gives those that it has.</summary>
    /// <param name="source">The metadata of the clip.</param>
    /// <param name="positions">The positions as fractions of the duration, in ascending order.</param>
    /// <param name="longestSide">The longest side of the frames in pixels.</param>
    /// <param name="ffmpegFolder">The folder that contains ffmpeg; null to search PATH.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="PreparationException">The clip cannot be decoded, or ffmpeg is missing.</exception>
    internal static async Task<CaptionFrames> ReadAsync(
        SourceInfo source,
        IReadOnlyList<double> positions,
        int longestSide,
        string? ffmpegFolder,
        CancellationToken cancellationToken
    )
    {
        var factor = Math.Min(1, (double)longestSide / Math.Max(source.Width, source.Height));
        var (width, height) = (Math.Max(1, (int)Math.Round(source.Width * factor)), Math.Max(1, (int)Math.Round(source.Height * factor)));
        var scale = string.Create(CultureInfo.InvariantCulture, $"scale={width}:{height}:flags=area+accurate_rnd,setsar=1");
        List<byte[]> frames = [];
        if (source.Duration is { } duration)
        {
            var seconds = positions.Select(each => each * duration.TotalSeconds).ToArray();
            frames = await RunAsync(duration <= Short ? [.. Selected(seconds)] : [.. Sought(seconds)]).ConfigureAwait(false);
        }

        if (frames.Count < positions.Count)
        {
            // The duration is unknown or wrong, or frames are shown longer than the distance of the positions.
            var options = new FrameStreamOptions
            {
                Width = 16,
                Height = 16,
                Layout = PixelLayout.Gray,
                FFmpegFolder = ffmpegFolder,
            };
            var (count, _) = await FrameStream.ReadAsync(source, options, static _ => { }, cancellationToken).ConfigureAwait(false);
            var indices = positions.Select(each => Math.Min(count - 1, (int)(each * count))).Distinct();
            frames = await RunAsync([
                    .. FFmpegProcess.Input(source.Path),
                    "-map",
                    "0:v:0",
                    .. FFmpegProcess.Passthrough,
                    "-vf",
                    $"select='{string.Join('+', indices.Select(each => string.Create(CultureInfo.InvariantCulture, $"eq(n,{each})")))}',{scale}",
                ])
                .ConfigureAwait(false);
        }

        return frames.Count > 0
            ? new CaptionFrames(frames, width, height)
            : throw new PreparationException("no frames", $"No frame of '{source.Path}' can be decoded.");

        IEnumerable<string> Selected(double[] seconds) =>
            [
                .. FFmpegProcess.Input(source.Path),
                "-map",
                "0:v:0",
                .. FFmpegProcess.Passthrough,
                "-vf",
                $"setpts=PTS-STARTPTS,select='{string.Join('+', seconds.Select(each =>
                    string.Create(CultureInfo.InvariantCulture, $"gte(t,{each:F6})*not(gte(prev_selected_t,{each:F6}))")))}',{scale}",
            ];

        IEnumerable<string> Sought(double[] seconds) =>
            [
                .. seconds.SelectMany(each =>
                    (string[])["-ss", each.ToString("F6", CultureInfo.InvariantCulture), .. FFmpegProcess.Input(source.Path)]
                ),
                "-filter_complex",
                string.Concat(
                    seconds.Select((_, i) => string.Create(CultureInfo.InvariantCulture, $"[{i}:v:0]trim=end_frame=1,setpts=0,{scale}[f{i}];"))
                )
                    + string.Concat(seconds.Select((_, i) => string.Create(CultureInfo.InvariantCulture, $"[f{i}]")))
                    + string.Create(CultureInfo.InvariantCulture, $"concat=n={seconds.Length}"),
            ];

        async Task<List<byte[]>> RunAsync(string[] arguments)
        {
            List<byte[]> read = [];
            await FFmpegProcess
                .RunAsync(
                    ffmpegFolder,
                    $"decode '{source.Path}'",
                    [
                        .. arguments,
                        "-frames:v",
                        positions.Count.ToString(CultureInfo.InvariantCulture),
                        "-f",
                        "rawvideo",
                        "-pix_fmt",
                        "rgb24",
                        "pipe:1",
                    ],
                    async (pipe, token) =>
                    {
                        while (read.Count < positions.Count)
                        {
                            var frame = new byte[width * height * 3];
                            var count = await pipe.ReadAtLeastAsync(frame, frame.Length, throwOnEndOfStream: false, token).ConfigureAwait(false);
                            if (count < frame.Length)
                            {
                                break;
                            }

                            read.Add(frame);
                        }
                    },
                    cancellationToken
                )
                .ConfigureAwait(false);
            return read;
        }
    }

    private static byte[] Jpeg(byte[] pixels, int width, int height, int quality)
    {
        using var image = Image.LoadPixelData<Rgb24>(pixels, width, height);
        using var stream = new MemoryStream();
        image.SaveAsJpeg(stream, new JpegEncoder { Quality = quality });
        return stream.ToArray();
    }
}
