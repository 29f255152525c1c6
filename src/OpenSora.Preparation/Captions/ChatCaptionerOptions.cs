namespace OpenSora.Preparation.Captions;

/// <summary>Specifies how the frames of a clip are shown to a model.</summary>
public enum FrameLayout
{
    /// <summary>All frames in one picture, below each other or side by side. Every vision model and every server accepts it.</summary>
    OnePicture,

    /// <summary>One image for each frame, in one request. For models that were trained with several images.</summary>
    SeparateImages,
}

/// <summary>Options of a <see cref="ChatCaptioner"/>.</summary>
public sealed class ChatCaptionerOptions
{
    /// <summary>Gets or sets the name of the model; null for that of the chat client.</summary>
    public string? Model { get; set; }

    /// <summary>Gets or sets the prompt for clips; null for the built-in prompt.</summary>
    public string? ClipPrompt { get; set; }

    /// <summary>Gets or sets the prompt for still images; null for the built-in prompt.</summary>
    public string? ImagePrompt { get; set; }

    /// <summary>Gets or sets how the frames of a clip are shown to the model.</summary>
    public FrameLayout Layout { get; set; }

    /// <summary>Gets or sets the positions of the frames as fractions of the clip's duration, in ascending order; null for 0.2, 0.5 and
    /// 0.8.</summary>
    public double[]? FramePositions { get; set; }

    /// <summary>Gets or sets the longest side of a frame in pixels. Larger frames are reduced; smaller ones are not enlarged.</summary>
    public int FrameSize { get; set; } = 512;

    /// <summary>Gets or sets the quality of the JPEG images, from 1 to 100.</summary>
    public int JpegQuality { get; set; } = 85;

    /// <summary>Gets or sets the number of requests that are sent at the same time.</summary>
    public int MaxConcurrentRequests { get; set; } = 8;

    /// <summary>Gets or sets the number of requests that can be sent in a minute; null for no limit.</summary>
    public int? RequestsPerMinute { get; set; }

    /// <summary>Gets or sets the time after which an unanswered request is abandoned.</summary>
    public TimeSpan RequestTimeout { get; set; } = TimeSpan.FromMinutes(2);

    /// <summary>Gets or sets how many times a failed request is repeated.</summary>
    public int MaxRetries { get; set; } = 5;

    /// <summary>Gets or sets the time before the first repetition. It doubles with each further one and varies randomly. When the server states a
    /// time to wait, all requests wait for that time instead.</summary>
    public TimeSpan RetryDelay { get; set; } = TimeSpan.FromSeconds(1);

    /// <summary>Gets or sets the longest time between two attempts. A server that asks for more is regarded as unavailable.</summary>
    public TimeSpan MaxRetryDelay { get; set; } = TimeSpan.FromMinutes(5);

    /// <summary>Gets or sets the number of clips in a row that fail because of the server before a <see cref="CaptionServerException"/> is
    /// thrown.</summary>
    public int MaxFailuresInARow { get; set; } = 20;

    /// <summary>Gets or sets the most tokens of an answer.</summary>
    public int MaxOutputTokens { get; set; } = 256;

    /// <summary>Gets or sets the randomness of the answers. With 0, a model gives the same answer to the same request; null for the default of the
    /// server, for models that accept no other.</summary>
    public float? Temperature { get; set; } = 0;

    /// <summary>Gets or sets the least number of words of a caption. A clip with a shorter answer has no caption.</summary>
    public int MinWords { get; set; } = 3;

    /// <summary>Gets or sets the most words of a caption. Longer answers are cut at the end of a sentence, a clause or a word.</summary>
    public int MaxWords { get; set; } = 90;

    /// <summary>Gets or sets the folder that contains ffmpeg; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }

    /// <summary>Gets the positions of the frames.</summary>
    internal double[] Positions => FramePositions ?? [0.2, 0.5, 0.8];

    /// <summary>Copies the options, so that later changes have no effect.</summary>
    internal ChatCaptionerOptions Copy()
    {
        var copy = (ChatCaptionerOptions)MemberwiseClone();
        copy.FramePositions = (double[]?)FramePositions?.Clone();
        return copy;
    }

    /// <summary>Verifies the values.</summary>
    /// <exception cref="ArgumentException">A value is invalid.</exception>
    internal void Validate()
    {
        Require(
            FramePositions is null or { Length: > 0 and <= 32 }
                && Positions.All(each => each is >= 0 and <= 1)
                && Positions.SequenceEqual(Positions.Order()),
            nameof(FramePositions),
            "must have 1 to 32 ascending values from 0 to 1"
        );
        Require(FrameSize is >= 16 and <= 4096, nameof(FrameSize), "must be from 16 to 4096");
        Require(JpegQuality is >= 1 and <= 100, nameof(JpegQuality), "must be from 1 to 100");
        Require(Enum.IsDefined(Layout), nameof(Layout), $"must be {string.Join(" or ", Enum.GetNames<FrameLayout>())}");
        Require(MaxConcurrentRequests is >= 1 and <= 1024, nameof(MaxConcurrentRequests), "must be from 1 to 1024");
        Require(RequestsPerMinute is null or >= 1, nameof(RequestsPerMinute), "must be at least 1, or null for no limit");
        Require(MaxRetries is >= 0 and <= 100, nameof(MaxRetries), "must be from 0 to 100");
        Require(
            RequestTimeout >= TimeSpan.FromMilliseconds(10) && RequestTimeout <= TimeSpan.FromDays(1),
            nameof(RequestTimeout),
            "must be from 10 milliseconds to 1 day"
        );
        Require(RetryDelay > TimeSpan.Zero, nameof(RetryDelay), "must be positive");
        Require(
            MaxRetryDelay >= RetryDelay && MaxRetryDelay <= TimeSpan.FromDays(1),
            nameof(MaxRetryDelay),
            $"must be from {nameof(RetryDelay)} to 1 day"
        );
        Require(MaxFailuresInARow >= 1, nameof(MaxFailuresInARow), "must be at least 1");
        Require(MaxOutputTokens >= 1, nameof(MaxOutputTokens), "must be at least 1");
        Require(Temperature is null or (>= 0 and <= 2), nameof(Temperature), "must be from 0 to 2, or null for the default of the server");
        Require(MinWords >= 1, nameof(MinWords), "must be at least 1");
        Require(MaxWords >= MinWords, nameof(MaxWords), $"must be at least {nameof(MinWords)}");
    }

    private static void Require(bool isValid, string name, string expected)
    {
        if (!isValid)
        {
            throw new ArgumentException($"{nameof(ChatCaptionerOptions)}.{name} {expected}.", name);
        }
    }
}
