namespace OpenSora.Generation;

/// <summary>A prompt that applies to a part of a long video (<see cref="VideoRequest.Segments"/>).</summary>
/// <param name="Frame">The first frame of the part. It ends where the next segment begins.</param>
/// <param name="Prompt">The description of the part; empty to generate it without a prompt.</param>
public sealed record PromptSegment(int Frame, string Prompt);
