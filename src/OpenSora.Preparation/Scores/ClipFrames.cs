using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Scores;

/// <summary>Specifies which frames of a clip are decoded for scores.</summary>
public sealed class ClipFramesOptions
{
    /// <summary>Gets or sets the shorter side of the frames in pixels. Smaller videos are enlarged, so that scores of all videos are
    /// comparable.</summary>
    public int ShortSide { get; set; } = 256;

    /// <summary>Gets or sets the longer side in pixels at most. Frames of wider videos have a shorter side below <see cref="ShortSide"/>.</summary>
    public int MaxLongSide { get; set; } = 640;

    /// <summary>Gets or sets the frames per second at about which a clip is sampled: every frame, every second one, every third one ...</summary>
    public double FramesPerSecond { get; set; } = 12;

    /// <summary>Gets or sets the number of frames at most, which bounds the memory. A longer clip is sampled at half the rate, a quarter
    /// ...</summary>
    public int MaxFrames { get; set; } = 96;

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }
}

/// <summary>The frames of a clip, decoded once at a reduced size, from which all scores are computed.</summary>
public sealed class ClipFrames
{
    private readonly IReadOnlyList<byte[]> _rgb;
    private readonly byte[][] _luma;

    /// <summary>Initializes a clip from frames in memory.</summary>
    /// <param name="source">The metadata of the clip.</param>
    /// <param name="width">The width of the frames in pixels.</param>
    /// <param name="height">The height of the frames in pixels.</param>
    /// <param name="framesPerSecond">The number of these frames in a second.</param>
    /// <param name="rgb">The frames, row by row, three bytes for each pixel (red, green, blue). They are not copied.</param>
    /// <exception cref="ArgumentException">There are no frames, or one has the wrong size.</exception>
    public ClipFrames(SourceInfo source, int width, int height, double framesPerSecond, IReadOnlyList<byte[]> rgb)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(rgb);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(width);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(height);
        if (!(framesPerSecond > 0 && double.IsFinite(framesPerSecond)))
        {
            throw new ArgumentOutOfRangeException(nameof(framesPerSecond), framesPerSecond, "The frame rate must be positive.");
        }

        if (rgb.Count == 0 || rgb.Any(frame => frame.Length != width * height * 3))
        {
            throw new ArgumentException($"Expected at least one frame, and {width * height * 3} bytes for each ({width}x{height} RGB).", nameof(rgb));
        }

        (Source, Width, Height, FramesPerSecond, _rgb) = (source, width, height, framesPerSecond, rgb);
        _luma = [.. rgb.Select(Pixels.Luma)];
    }

    /// <summary>Gets the metadata of the clip.</summary>
    public SourceInfo Source { get; }

    /// <summary>Gets the width of the frames in pixels.</summary>
    public int Width { get; }

    /// <summary>Gets the height of the frames in pixels.</summary>
    public int Height { get; }

    /// <summary>Gets the number of sampled frames in a second, which can be below the frame rate of the clip.</summary>
    public double FramesPerSecond { get; }

    /// <summary>Gets the number of sampled frames.</summary>
    public int Count => _rgb.Count;

    /// <summary>Gets the duration: that of the metadata, or of the decoded frames where the metadata has none.</summary>
    public TimeSpan Duration => Source.Duration ?? TimeSpan.FromSeconds(Count / FramesPerSecond);

    /// <summary>Gets the caption of the clip, for scores that compare it with the frames; null if there is none.</summary>
    public string? Caption { get; init; }

    /// <summary>Gets the first error of a decoder that continued nevertheless; null if there was none.</summary>
    public string? Damage { get; private init; }

    /// <summary>Decodes the frames of a clip.</summary>
    /// <param name="path">The path of the clip.</param>
    /// <param name="options">Specifies which frames are decoded; null for the defaults.</param>
    /// <param name="caption">The caption of the clip; null if there is none.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="FileNotFoundException">The file does not exist.</exception>
    /// <exception cref="PreparationException">The file is not a readable video, or ffmpeg is missing.</exception>
    public static async Task<ClipFrames> ReadAsync(
        string path,
        ClipFramesOptions? options = null,
        string? caption = null,
        CancellationToken cancellationToken = default
    )
    {
        var source = await SourceProbe.ReadAsync(path, options?.FFmpegFolder, cancellationToken).ConfigureAwait(false);
        return await ReadAsync(source, options, caption, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Decodes the frames of a clip with known metadata.</summary>
    /// <param name="source">The metadata of the clip.</param>
    /// <param name="options">Specifies which frames are decoded; null for the defaults.</param>
    /// <param name="caption">The caption of the clip; null if there is none.</param>
    /// <param name="cancellationToken">Stops the decoder.</param>
    /// <exception cref="PreparationException">The file is not a readable video, or ffmpeg is missing.</exception>
    public static async Task<ClipFrames> ReadAsync(
        SourceInfo source,
        ClipFramesOptions? options = null,
        string? caption = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(source);
        options ??= new();
        Validate(options);
        var scale = Math.Min(
            (double)options.ShortSide / Math.Min(source.Width, source.Height),
            (double)options.MaxLongSide / Math.Max(source.Width, source.Height)
        );
        var (width, height) = (Scaled(source.Width), Scaled(source.Height));
        var every = Math.Max(1, (int)Math.Round(source.FramesPerSecond / options.FramesPerSecond));

        // A clip that turns out to be too long is thinned to every second frame, and read on at this rate.
        List<byte[]> rgb = [];
        var stride = 1;
        var (_, damage) = await FrameStream
            .ReadAsync(
                source,
                new()
                {
                    Width = width,
                    Height = height,
                    FramesPerSecond = every == 1 ? null : source.FramesPerSecond / every,
                    FFmpegFolder = options.FFmpegFolder,
                },
                frame =>
                {
                    if (frame.Index % stride != 0)
                    {
                        return;
                    }

                    if (rgb.Count == options.MaxFrames)
                    {
                        rgb = [.. rgb.Where((_, index) => index % 2 == 0)];
                        stride *= 2;
                        if (frame.Index % stride != 0)
                        {
                            return;
                        }
                    }

                    var pixels = GC.AllocateUninitializedArray<byte>(frame.Pixels.Length);
                    frame.Pixels.CopyTo(pixels);
                    rgb.Add(pixels);
                },
                cancellationToken
            )
            .ConfigureAwait(false);
        return new(source, width, height, source.FramesPerSecond / (every * stride), rgb) { Caption = caption, Damage = damage };

        int Scaled(int side) => Math.Max(1, (int)Math.Round(side * scale));
    }

    /// <summary>Gets the pixels of a frame, row by row, three bytes for each: red, green, blue.</summary>
    /// <param name="index">The index of the frame, from 0.</param>
    public ReadOnlySpan<byte> Rgb(int index) => _rgb[index];

    /// <summary>Gets the brightness of the pixels of a frame, row by row, from 0 (black) to 255 (BT.601).</summary>
    /// <param name="index">The index of the frame, from 0.</param>
    public ReadOnlySpan<byte> Luma(int index) => _luma[index];

    /// <summary>Returns the indices of frames that are spread evenly over the clip, each in the middle of its part.</summary>
    /// <param name="count">The number of frames; a clip with fewer gives all it has.</param>
    public IReadOnlyList<int> Sample(int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        var taken = Math.Min(count, Count);
        return [.. Enumerable.Range(0, taken).Select(i => ((2 * i) + 1) * Count / (2 * taken))];
    }

    private static void Validate(ClipFramesOptions options)
    {
        if (options.ShortSide < 32 || options.MaxLongSide < options.ShortSide || options.MaxFrames < 2 || !(options.FramesPerSecond > 0))
        {
            throw new ArgumentException(
                "The options of the frames are invalid. ShortSide must be at least 32, MaxLongSide at least ShortSide, MaxFrames at least 2, and "
                    + "FramesPerSecond positive; they are "
                    + $"{options.ShortSide}, {options.MaxLongSide}, {options.MaxFrames} and {options.FramesPerSecond}.",
                nameof(options)
            );
        }
    }
}
