using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.DependencyInjection;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Runtime;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Adds text-to-video generation to a service collection.</summary>
public static class OpenSoraServiceCollectionExtensions
{
    /// <summary>
    /// Registers a <see cref="VideoGenerator"/>, shared by all, with what it needs. Options come from the section <c>OpenSora</c> of the registered
    /// configuration, where there is one, then from <paramref name="configure"/>. A section <c>Training</c> in it is OpenSora.Training's.
    /// </summary>
    /// <param name="services">The services.</param>
    /// <param name="configure">Sets options in code; has the last word.</param>
    /// <returns>A builder that replaces parts.</returns>
    public static OpenSoraBuilder AddOpenSora(this IServiceCollection services, Action<OpenSoraOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        if (!IsAdded(services)) // once: what the first call set in code has the last word over the section
        {
            services.AddSingleton<IConfigureOptions<OpenSoraOptions>>(provider => new ConfigureOptions<OpenSoraOptions>(options =>
                Bind(Own(provider.GetService<IConfiguration>()?.GetSection(OpenSoraOptions.SectionName)), options)
            ));
        }

        return Add(services, configure);
    }

    /// <summary>The same, with options from a configuration section of the caller's choice.</summary>
    /// <param name="services">The services.</param>
    /// <param name="section">Holds the options themselves.</param>
    /// <returns>A builder that replaces parts.</returns>
    public static OpenSoraBuilder AddOpenSora(this IServiceCollection services, IConfiguration section)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(section);
        services.AddSingleton<IConfigureOptions<OpenSoraOptions>>(new ConfigureOptions<OpenSoraOptions>(options => Bind(section, options)));
        return Add(services, null);
    }

    // A misspelt key is an error, not a silently kept default.
    private static void Bind(IConfiguration? section, OpenSoraOptions options) =>
        section?.Bind(options, binder => binder.ErrorOnUnknownConfiguration = true);

    // The section without that of the training library.
    private static IConfiguration? Own(IConfiguration? section) =>
        section is null || !section.GetSection("Training").Exists()
            ? section
            : new ConfigurationBuilder()
                .AddInMemoryCollection(
                    section
                        .AsEnumerable(makePathsRelative: true)
                        .Where(pair =>
                            !pair.Key.Equals("Training", StringComparison.OrdinalIgnoreCase)
                            && !pair.Key.StartsWith("Training:", StringComparison.OrdinalIgnoreCase)
                        )
                )
                .Build();

    private static OpenSoraBuilder Add(IServiceCollection services, Action<OpenSoraOptions>? configure)
    {
        var options = services.AddOptions<OpenSoraOptions>().ValidateOnStart();
        if (configure is not null)
        {
            options.Configure(configure);
        }

        services.TryAddEnumerable(ServiceDescriptor.Singleton<IValidateOptions<OpenSoraOptions>, OpenSoraOptionsValidator>());

        if (!IsAdded(services)) // once: of several backends with one name the last counts, and that is one added in code
        {
            services.AddSingleton<IComputeBackend, CpuBackend>();
            foreach (var backend in BackendSelector.Discovered.Value)
            {
                services.AddSingleton(backend);
            }
        }
        services.TryAddSingleton<BackendSelector>();

        services.TryAddSingleton<IVideoReader>(p => new VideoReader(Options(p).FFmpegFolder));
        services.TryAddSingleton<IVideoWriter>(p => new VideoWriter(Options(p).FFmpegFolder));
        services.TryAddSingleton<IImageCodec>(p => new ImageCodec(Options(p).FFmpegFolder));

        // Called twice, it adds to the same generator.
        var parts = Parts(services) ?? new PartFactories();
        services.TryAddSingleton(parts);
        services.TryAddSingleton(p => new VideoGenerator(
            Options(p),
            parts,
            p.GetRequiredService<BackendSelector>(),
            p.GetRequiredService<IVideoWriter>(),
            p.GetRequiredService<IImageCodec>(),
            p,
            p.GetService<ILogger<VideoGenerator>>()
        ));
        return new OpenSoraBuilder(services, parts);
    }

    private static PartFactories? Parts(IServiceCollection services) =>
        services.FirstOrDefault(s => s.ServiceType == typeof(PartFactories))?.ImplementationInstance as PartFactories;

    private static bool IsAdded(IServiceCollection services) => Parts(services) is not null;

    private static OpenSoraOptions Options(IServiceProvider provider) => provider.GetRequiredService<IOptions<OpenSoraOptions>>().Value;
}
