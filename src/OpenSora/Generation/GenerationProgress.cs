namespace OpenSora.Generation;

/// <summary>What a generation is busy with.</summary>
public enum GenerationStage
{
    /// <summary>Reading the model, once for a generator.</summary>
    Loading,

    /// <summary>Encoding the prompt.</summary>
    EncodingText,

    /// <summary>Encoding the frames of references, where a request has some.</summary>
    EncodingReferences,

    /// <summary>Taking the noise away, step by step.</summary>
    Denoising,

    /// <summary>Turning latents to pixels.</summary>
    Decoding,

    /// <summary>Writing a file.</summary>
    Writing,
}

/// <summary>How far a generation is.</summary>
/// <param name="Stage">What it is busy with.</param>
/// <param name="Step">Steps of the stage that are done, from 0 when the stage begins.</param>
/// <param name="Steps">All steps of the stage; stages that cannot be divided have one.</param>
public readonly record struct GenerationProgress(GenerationStage Stage, int Step, int Steps);
