namespace OpenSora.Preparation.PublicSets;

/// <summary>An entry of a published data set: a video, a part of a video, or an image, with its caption or class.</summary>
/// <remarks>Several entries can be parts of the same video: they have the same <see cref="Source"/> and different times.</remarks>
public sealed record PublicSetEntry
{
    /// <summary>The name of the data set, such as <c>Panda-70M</c>.</summary>
    public required string Set { get; init; }

    /// <summary>The identifier of the entry in its data set, such as <c>dQw4w9WgXcQ_00003</c>.</summary>
    public required string Id { get; init; }

    /// <summary>The identifier of the video that the entry is a part of; the same as <see cref="Id"/> where the entry is a whole file.</summary>
    public required string VideoId { get; init; }

    /// <summary>The address of the video or of the page that shows it; null for a local file.</summary>
    public string? Url { get; init; }

    /// <summary>The path of the file; null for an address.</summary>
    public string? Path { get; init; }

    /// <summary>The time at which the part starts; null for the start of the video.</summary>
    public TimeSpan? Start { get; init; }

    /// <summary>The time at which the part ends; null for the end of the video.</summary>
    public TimeSpan? End { get; init; }

    /// <summary>The caption, or the words of the class; null if there is none.</summary>
    public string? Caption { get; init; }

    /// <summary>Further captions of the same part, such as the other 19 of MSR-VTT.</summary>
    public IReadOnlyList<string> OtherCaptions { get; init; } = [];

    /// <summary>The class as the data set writes it, such as <c>ApplyEyeMakeup</c> or <c>n01440764</c>; null if there is none.</summary>
    public string? Class { get; init; }

    /// <summary>The SHA-256 of the file in hexadecimal digits, which a download must match; null if the data set does not specify it.</summary>
    public string? Sha256 { get; init; }

    /// <summary>Further columns of the published list by their names there, such as <c>matching_score</c>.</summary>
    public IReadOnlyDictionary<string, string> Columns { get; init; } = NoColumns;

    /// <summary>Gets the address or the path.</summary>
    public string Source => Url ?? Path ?? "";

    private static readonly IReadOnlyDictionary<string, string> NoColumns = new Dictionary<string, string>(StringComparer.Ordinal);
}

/// <summary>An irregularity of a published list that is known and does not stop reading.</summary>
/// <param name="File">The path of the list.</param>
/// <param name="Line">The line, from 1; 0 if the notice is about the whole file.</param>
/// <param name="Reason">The reason in a few words, the same for all such lines, such as <c>no caption</c>.</param>
/// <param name="Message">The message with details.</param>
public sealed record PublicSetNotice(string File, long Line, string Reason, string Message);
