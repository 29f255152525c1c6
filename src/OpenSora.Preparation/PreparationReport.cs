using System.Globalization;
using System.Text;
using OpenSora.Preparation.Manifests;

namespace OpenSora.Preparation;

/// <summary>The result of preparation.</summary>
public sealed record PreparationReport
{
    /// <summary>The path of the manifest, a CSV file.</summary>
    public required string Manifest { get; init; }

    /// <summary>The path of the page with statistics, an HTML file.</summary>
    public required string Statistics { get; init; }

    /// <summary>The number of sources.</summary>
    public long Sources { get; init; }

    /// <summary>The number of shots in all sources.</summary>
    public long Shots { get; init; }

    /// <summary>The number of clips that were cut from shots.</summary>
    public long Clips { get; init; }

    /// <summary>The number of clips in the manifest.</summary>
    public long Kept { get; init; }

    /// <summary>What was dropped, by stage and reason. The stages are <c>source</c>, <c>shot</c>, <c>cut</c>, <c>score</c>, <c>filter</c>,
    /// <c>duplicate</c> and <c>caption</c>.</summary>
    public IReadOnlyList<DroppedCount> Dropped { get; init; } = [];

    /// <summary>The sources that cannot be prepared, with the reason of each.</summary>
    public IReadOnlyList<(string Source, string Message)> DroppedSources { get; init; } = [];

    /// <summary>The files and folders of the input folder that are not videos or cannot be read, with the reason of each.</summary>
    public IReadOnlyList<(string Path, string Reason)> PassedOver { get; init; } = [];

    /// <summary>Returns the report as lines of text.</summary>
    public override string ToString()
    {
        var text = new StringBuilder().Append(
            CultureInfo.InvariantCulture,
            $"{Sources} videos, {Shots} shots, {Clips} clips, {Kept} of them in the manifest '{Manifest}'."
        );
        foreach (var (stage, reason, count) in Dropped)
        {
            text.AppendLine().Append(CultureInfo.InvariantCulture, $"Dropped ({stage}): {count} × {reason}");
        }

        return text.ToString();
    }
}
