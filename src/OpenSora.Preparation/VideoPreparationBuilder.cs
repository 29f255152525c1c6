using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.Preparation.Captions;
using OpenSora.Preparation.Cutting;
using OpenSora.Preparation.Pipeline;
using OpenSora.Preparation.Scores;
using OpenSora.Preparation.Shots;

namespace OpenSora.Preparation;

/// <summary>Sets up a <see cref="VideoPreparation"/>, in an application's service collection (<c>AddVideoPreparation</c>) and without one
/// (<see cref="VideoPreparation.Create"/>).</summary>
public sealed class VideoPreparationBuilder
{
    private readonly PreparationParts _parts = new();

    internal VideoPreparationBuilder()
        : this(new ServiceCollection()) { }

    internal VideoPreparationBuilder(IServiceCollection services)
    {
        Services = services;
        Services.AddOptions<PreparationOptions>();
        Services.TryAddSingleton(provider => new VideoPreparation(
            provider.GetRequiredService<IOptions<PreparationOptions>>().Value,
            _parts.With(provider),
            provider.GetService<ILoggerFactory>()?.CreateLogger<VideoPreparation>()
        ));
    }

    /// <summary>Gets the services of the preparation: the application's, or a collection that belongs to this builder.</summary>
    public IServiceCollection Services { get; }

    /// <summary>Configures the options.</summary>
    /// <param name="configure">Sets the options.</param>
    public VideoPreparationBuilder Configure(Action<PreparationOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        Services.Configure(configure);
        return this;
    }

    /// <summary>Sets the folder with the videos; see <see cref="PreparationOptions.Input"/>.</summary>
    /// <param name="folder">The folder.</param>
    public VideoPreparationBuilder From(string folder) => Configure(options => options.Input = folder);

    /// <summary>Sets the videos, instead of a folder.</summary>
    /// <param name="sources">The videos, such as those of a public data set with the parts that it lists.</param>
    public VideoPreparationBuilder From(IEnumerable<PreparationSource> sources)
    {
        ArgumentNullException.ThrowIfNull(sources);
        _parts.Sources = [.. sources];
        return this;
    }

    /// <summary>Sets the folder for the clips and the manifest; see <see cref="PreparationOptions.Output"/>.</summary>
    /// <param name="folder">The folder.</param>
    public VideoPreparationBuilder To(string folder) => Configure(options => options.Output = folder);

    /// <summary>Replaces the shot detector.</summary>
    /// <param name="detector">The detector; null for the default.</param>
    public VideoPreparationBuilder DetectShots(IShotDetector? detector)
    {
        _parts.Detector = detector;
        return this;
    }

    /// <summary>Configures the clips.</summary>
    /// <param name="configure">Sets the options.</param>
    public VideoPreparationBuilder Cut(Action<CutOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(configure);
        return Configure(options => configure(options.Cut));
    }

    /// <summary>Adds a score to those that the library has. Its columns are written to the manifest and can be used in filters.</summary>
    /// <param name="score">The score.</param>
    public VideoPreparationBuilder AddScore(IClipScore score)
    {
        ArgumentNullException.ThrowIfNull(score);
        _parts.Scores.Add(score);
        return this;
    }

    /// <summary>Adds a filter: an expression over the columns of scores, which clips in the manifest match.</summary>
    /// <param name="expression">The expression, such as <c>motion &gt; 0.5 &amp;&amp; text_area &lt; 0.1</c>.</param>
    public VideoPreparationBuilder Where(string expression) => Configure(options => options.Filters.Add(expression));

    /// <summary>Writes captions.</summary>
    /// <param name="captioner">The captioner.</param>
    public VideoPreparationBuilder CaptionWith(ICaptioner captioner)
    {
        ArgumentNullException.ThrowIfNull(captioner);
        return CaptionWith(_ => captioner);
    }

    /// <summary>Writes captions with a captioner that the services create.</summary>
    /// <param name="create">Creates the captioner.</param>
    public VideoPreparationBuilder CaptionWith(Func<IServiceProvider, ICaptioner> create)
    {
        _parts.CreateCaptioner = create;
        return this;
    }

    /// <summary>Creates the preparation. Not for a builder that belongs to an application: it resolves <see cref="VideoPreparation"/> from its
    /// services.</summary>
    /// <exception cref="ArgumentException">An option is invalid. The message contains all problems.</exception>
    public VideoPreparation Build() => Services.BuildServiceProvider().GetRequiredService<VideoPreparation>();
}
