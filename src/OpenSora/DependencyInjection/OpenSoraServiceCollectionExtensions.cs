using Microsoft.Extensions.Configuration;
using OpenSora.DependencyInjection;
using OpenSora.Generation;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Extension methods that add text-to-video generation to a service collection.</summary>
public static class OpenSoraServiceCollectionExtensions
{
    /// <summary>
    /// Registers a singleton <see cref="VideoGenerator"/> and the services it depends on. Options are bound from the section <c>OpenSora</c> of the
    /// registered configuration, if there is one, and then from <paramref name="configure"/>. The subsections <c>Training</c> and
    /// <c>Preparation</c> are ignored: they belong to other packages. A host reports all problems with the options and the model folder when it
    /// starts. </summary>
    /// <param name="services">The service collection.</param>
    /// <param name="configure">Sets options in code, overriding the configuration.</param>
    /// <returns>A builder for further configuration.</returns>
    public static VideoGeneratorBuilder AddOpenSora(this IServiceCollection services, Action<OpenSoraOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        var builder = VideoGeneratorBuilder.In(services, (provider, options) =>
            Bind(provider.GetService<IConfiguration>()?.GetSection(OpenSoraOptions.SectionName), options)
        );
        return configure is null ? builder : builder.Configure(configure);
    }

    /// <summary>Registers a singleton <see cref="VideoGenerator"/> and the services it depends on, with options from the given configuration
    /// section.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="section">The configuration section that contains the options.</param>
    /// <returns>A builder for further configuration.</returns>
    public static VideoGeneratorBuilder AddOpenSora(this IServiceCollection services, IConfiguration section)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(section);
        return VideoGeneratorBuilder.In(services).Configure(options => Bind(section, options));
    }

    private static void Bind(IConfiguration? section, OpenSoraOptions options)
    {
        if (section is not null)
        {
            OptionsBinder.Bind(section, options, options.BindingProblems, except: ["Training", "Preparation"], names: type =>
                type == typeof(TorchSharp.torch.ScalarType) ? OpenSoraOptions.Precisions.Select(p => p.ToString()) : null
            );
        }
    }
}
