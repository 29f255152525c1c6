using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.DependencyInjection;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.Runtime;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Extension methods that add text-to-video generation to a service collection.</summary>
public static class OpenSoraServiceCollectionExtensions
{
    /// <summary>
    /// Registers a singleton <see cref="VideoGenerator"/> and the services it depends on. Options are bound from the section <c>OpenSora</c> of the
    /// registered configuration, if there is one, and then from <paramref name="configure"/>. The subsection <c>Training</c> is ignored: it belongs
    /// to OpenSora.Training.
    /// </summary>
    /// <param name="services">The service collection.</param>
    /// <param name="configure">Sets options in code, overriding the configuration.</param>
    /// <returns>A builder for further configuration.</returns>
    public static OpenSoraBuilder AddOpenSora(this IServiceCollection services, Action<OpenSoraOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        if (!IsAdded(services)) // bind only once, so that options set in code by the first call still override the section
        {
            services.AddSingleton<IConfigureOptions<OpenSoraOptions>>(provider => new ConfigureOptions<OpenSoraOptions>(options =>
                Bind(Own(provider.GetService<IConfiguration>()?.GetSection(OpenSoraOptions.SectionName)), options)
            ));
        }

        return Add(services, configure);
    }

    /// <summary>Registers a singleton <see cref="VideoGenerator"/> and the services it depends on, with options from the given configuration
    /// section.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="section">The configuration section that contains the options.</param>
    /// <returns>A builder for further configuration.</returns>
    public static OpenSoraBuilder AddOpenSora(this IServiceCollection services, IConfiguration section)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(section);
        services.AddSingleton<IConfigureOptions<OpenSoraOptions>>(new ConfigureOptions<OpenSoraOptions>(options => Bind(section, options)));
        return Add(services, null);
    }

    // Unknown keys are errors: they would otherwise silently leave a default in place.
    private static void Bind(IConfiguration? section, OpenSoraOptions options) =>
        section?.Bind(options, binder => binder.ErrorOnUnknownConfiguration = true);

    // Returns the section without the subsection of the training library.
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

        if (!IsAdded(services)) // register only once: the last backend with a given name is used, and backends added in code must take precedence
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

        // Further calls configure the same generator.
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
        services.TryAddSingleton<IVideoGenerator>(p => p.GetRequiredService<VideoGenerator>());
        return new OpenSoraBuilder(services, parts);
    }

    private static PartFactories? Parts(IServiceCollection services) =>
        services.FirstOrDefault(s => s.ServiceType == typeof(PartFactories))?.ImplementationInstance as PartFactories;

    private static bool IsAdded(IServiceCollection services) => Parts(services) is not null;

    private static OpenSoraOptions Options(IServiceProvider provider) => provider.GetRequiredService<IOptions<OpenSoraOptions>>().Value;
}
