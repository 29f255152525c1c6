using OpenSora.Media;

namespace OpenSora.Generation;

/// <summary>Specifies a stage of video generation.</summary>
public enum GenerationStage
{
    /// <summary>Waiting until other requests are complete (<see cref="OpenSoraOptions.MaxConcurrentRequests"/>).</summary>
    Waiting,

    /// <summary>Loading the model, once per generator.</summary>
    Loading,

    /// <summary>Encoding the prompt.</summary>
    EncodingText,

    /// <summary>Encoding the reference frames, if the request has any.</summary>
    EncodingReferences,

    /// <summary>Removing the noise step by step.</summary>
    Denoising,

    /// <summary>Decoding the latents into pixels.</summary>
    Decoding,

    /// <summary>Writing an output file.</summary>
    Writing,
}

/// <summary>The progress of a generation.</summary>
/// <param name="Stage">The current stage.</param>
/// <param name="Step">The number of completed steps of the stage; 0 when the stage begins.</param>
/// <param name="Steps">The total number of steps of the stage; 1 for stages that cannot be divided.</param>
public readonly record struct GenerationProgress(GenerationStage Stage, int Step, int Steps)
{
    /// <summary>Gets the estimated time until the end of the stage, from the time that its steps took so far; null if unknown.</summary>
    public TimeSpan? Remaining { get; init; }

    /// <summary>Gets what the video looks like so far, from the model's prediction in this step; null if the step has no preview
    /// (<see cref="GenerationSettings.PreviewEvery"/>).</summary>
    /// <remarks>If the model has a preview autoencoder (<c>preview</c> in <c>model.json</c>), it decodes the preview at full size. Otherwise, a
    /// linear map from latents to colors, fitted to the model's autoencoder, gives a preview with one pixel for each latent position.</remarks>
    public VideoFrames? Preview { get; init; }
}
