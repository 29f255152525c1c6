namespace OpenSora.Preparation;

/// <summary>The stages of preparation. Shots, clips and scores are processed at the same time, the others one after another.</summary>
public enum PreparationStage
{
    /// <summary>Shots are detected in the sources.</summary>
    Shots,

    /// <summary>Clips are cut.</summary>
    Clips,

    /// <summary>Clips are scored.</summary>
    Scores,

    /// <summary>Filters are applied, and near-duplicates are searched for.</summary>
    Selection,

    /// <summary>Captions are written.</summary>
    Captions,

    /// <summary>The manifest and the statistics are written.</summary>
    Manifest,
}

/// <summary>The progress of one stage of preparation.</summary>
/// <param name="Stage">The stage.</param>
/// <param name="Done">The number of sources or clips that are done, including those of earlier runs. It has a fraction while a source is
/// read.</param>
/// <param name="Total">The number of sources or clips that are known so far.</param>
/// <param name="Dropped">The number of sources or clips that this stage dropped.</param>
/// <param name="Remaining">The estimated time until the stage ends; null if it is not known yet.</param>
public readonly record struct PreparationProgress(PreparationStage Stage, double Done, long Total, long Dropped, TimeSpan? Remaining = null);
