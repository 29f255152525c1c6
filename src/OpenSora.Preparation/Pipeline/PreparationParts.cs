using Microsoft.Extensions.DependencyInjection;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Scores;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation.Pipeline;

/// <summary>The replaceable parts of a preparation.</summary>
internal sealed class PreparationParts
{
    /// <summary>The sources; null for the videos of the input folder.</summary>
    internal IReadOnlyList<PreparationSource>? Sources { get; set; }

    /// <summary>The shot detector.</summary>
    internal IShotDetector? Detector { get; set; }

    /// <summary>The scores, beginning with those of the library.</summary>
    internal List<IClipScore> Scores { get; init; } = [.. StandardScores.Create()];

    /// <summary>Creates the captioner; null for none.</summary>
    internal Func<IServiceProvider, ICaptioner>? CreateCaptioner { get; set; }

    internal ICaptioner? Captioner { get; private init; }

    /// <summary>Returns these parts with those that are registered as services.</summary>
    internal PreparationParts With(IServiceProvider services) =>
        new()
        {
            Sources = Sources,
            Detector = Detector ?? services.GetService<IShotDetector>() ?? new TransitionDetector(),
            Scores = [.. Scores, .. services.GetServices<IClipScore>()],
            Captioner = CreateCaptioner?.Invoke(services) ?? services.GetService<ICaptioner>(),
        };
}
