using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Scores;

namespace OpenSora.Preparation;

/// <summary>Options of <see cref="VideoPreparation"/>.</summary>
public sealed class PreparationOptions
{
    /// <summary>The name of the configuration section with these options.</summary>
    public const string SectionName = "OpenSora:Preparation";

    /// <summary>Gets or sets the folder with the videos. It is not changed. Null if the sources are given as a list.</summary>
    public string? Input { get; set; }

    /// <summary>Gets or sets the folder for the clips, the manifest, the statistics and the ledger. A run continues what an earlier
    /// run in this folder began.</summary>
    public string Output { get; set; } = "";

    /// <summary>Gets or sets the options of the clips.</summary>
    public CutOptions Cut { get; set; } = new();

    /// <summary>Gets or sets which frames of a clip are scored.</summary>
    public ClipFramesOptions Frames { get; set; } = new();

    /// <summary>Gets the filters: expressions over the columns of scores, such as <c>motion &gt; 0.5 &amp;&amp; sharpness &gt;= 20</c>. A clip must
    /// match all of them. Filters can be changed between runs.</summary>
    public IList<string> Filters { get; } = [];

    /// <summary>Gets or sets a value that indicates whether of several clips that show almost the same, in all videos together, only the first is
    /// kept.</summary>
    public bool DropDuplicates { get; set; } = true;

    /// <summary>Gets or sets a value that indicates whether the manifest is also written as Parquet.</summary>
    public bool WriteParquet { get; set; }

    /// <summary>Gets or sets the number of processors to use; null for all.</summary>
    public int? Processors { get; set; }

    /// <summary>Gets or sets the folder that contains ffmpeg and ffprobe; null to search PATH.</summary>
    public string? FFmpegFolder { get; set; }

    /// <summary>Gets or sets a value that indicates whether an earlier run in the output folder is deleted instead of continued: its ledger and its
    /// clips.</summary>
    public bool Restart { get; set; }

    /// <summary>The unknown keys and invalid values of the section, one sentence each.</summary>
    internal List<string> BindingProblems { get; } = [];

    /// <summary>Gets the errors in the options, one sentence each.</summary>
    internal IEnumerable<string> Problems()
    {
        foreach (var problem in BindingProblems)
        {
            yield return problem;
        }

        if (string.IsNullOrWhiteSpace(Output))
        {
            yield return $"{nameof(Output)} is missing; it is the folder for the clips and the manifest.";
        }

        if (Processors is < 1)
        {
            yield return $"{nameof(Processors)} is {Processors}; it must be at least 1, or null for all.";
        }

        foreach (var problem in Cut.Problems())
        {
            yield return $"{nameof(Cut)}: {problem}";
        }
    }
}
