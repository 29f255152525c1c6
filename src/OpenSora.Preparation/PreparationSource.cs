using System.Globalization;
using OpenSora.Preparation.PublicSets;

namespace OpenSora.Preparation;

/// <summary>A video to prepare.</summary>
/// <param name="Path">The path of the file.</param>
public sealed record PreparationSource(string Path)
{
    /// <summary>The unique name of the video, which clips are named after and the manifest is ordered by; the default is the path.</summary>
    public string Name { get; init; } = Path;

    /// <summary>The parts of the video to cut, such as those that a data set lists; null to detect shots.</summary>
    public IReadOnlyList<SourcePart>? Parts { get; init; }

    /// <summary>Groups the clips of a public data set by their videos.</summary>
    /// <param name="clips">The clips, such as those of <see cref="PublicSetClip.ListAsync"/>.</param>
    public static IReadOnlyList<PreparationSource> FromClips(IEnumerable<PublicSetClip> clips)
    {
        ArgumentNullException.ThrowIfNull(clips);
        return
        [
            .. clips
                .GroupBy(clip => clip.Path, StringComparer.Ordinal)
                .Select(video => new PreparationSource(video.Key)
                {
                    Parts = [.. video.Select(clip => new SourcePart(clip.Start ?? TimeSpan.Zero, clip.End, clip.Caption))],
                }),
        ];
    }

    // Differs if the parts differ.
    internal string Version =>
        Parts is null
            ? ""
            : string.Concat(Parts.Select(part => string.Create(CultureInfo.InvariantCulture, $";{part.Start}-{part.End}:{part.Caption}")));
}

/// <summary>A part of a video that is known without shot detection.</summary>
/// <param name="Start">The time at which the part starts.</param>
/// <param name="End">The time at which the part ends; null for the end of the video.</param>
/// <param name="Caption">The caption; null if there is none.</param>
public sealed record SourcePart(TimeSpan Start, TimeSpan? End = null, string? Caption = null);
