using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Media;

namespace OpenSora.Preparation.Pipeline;

/// <summary>A source video in the ledger.</summary>
/// <param name="Id">The row.</param>
/// <param name="Name">The name that sources are ordered by: the path relative to the folder, with slashes.</param>
/// <param name="Path">The full path of the file.</param>
internal sealed record SourceRow(long Id, string Name, string Path);

/// <summary>A clip in the ledger that is not dropped.</summary>
internal sealed record ClipRow
{
    public required long Id { get; init; }

    public required SourceRow Source { get; init; }

    /// <summary>The metadata of the source.</summary>
    public required SourceInfo Info { get; init; }

    /// <summary>Indicates whether the decoder reported errors in the source.</summary>
    public bool IsDamaged { get; init; }

    /// <summary>The number of the clip in its source, from 1.</summary>
    public required int Number { get; init; }

    public required TimeRange Range { get; init; }

    /// <summary>The path of the clip, relative to the output folder, with slashes.</summary>
    public required string Path { get; init; }

    /// <summary>The caption that came with the source, or null.</summary>
    public string? GivenCaption { get; init; }

    public int Frames { get; init; }

    public int Width { get; init; }

    public int Height { get; init; }

    public double FramesPerSecond { get; init; }

    /// <summary>The SHA-256 of the file; empty before it is cut.</summary>
    public string Hash { get; init; } = "";

    /// <summary>The scores as JSON, or null before they are computed.</summary>
    public string? Scores { get; init; }

    public string? Caption { get; init; }

    public string? CaptionSource { get; init; }
}

/// <summary>The steps of preparation, in order.</summary>
internal enum ClipState
{
    /// <summary>The clip is to be cut.</summary>
    Planned = 0,

    /// <summary>The file of the clip exists.</summary>
    Cut = 1,

    /// <summary>Its scores are computed.</summary>
    Scored = 2,
}
