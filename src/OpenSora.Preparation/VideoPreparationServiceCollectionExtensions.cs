using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.Options;
using OpenSora.DependencyInjection;
using OpenSora.Preparation;

namespace Microsoft.Extensions.DependencyInjection;

/// <summary>Extension methods that add data preparation to a service collection.</summary>
public static class VideoPreparationServiceCollectionExtensions
{
    /// <summary>Registers a singleton <see cref="VideoPreparation"/>. Options are bound from the section <c>OpenSora:Preparation</c> of the
    /// registered configuration, if there is one, and then from <paramref name="configure"/>. Registered services of the types of its parts are used:
    /// a shot detector, additional scores, and a captioner. A host reports problems with the options when it starts.</summary>
    /// <param name="services">The service collection.</param>
    /// <param name="configure">Sets options in code, overriding the configuration.</param>
    /// <returns>A builder for further configuration.</returns>
    public static VideoPreparationBuilder AddVideoPreparation(this IServiceCollection services, Action<PreparationOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        services
            .AddOptions<PreparationOptions>()
            .Configure<IServiceProvider>(
                (options, provider) =>
                {
                    if (provider.GetService<IConfiguration>()?.GetSection(PreparationOptions.SectionName) is { } section)
                    {
                        OptionsBinder.Bind(section, options, options.BindingProblems);
                    }
                }
            )
            .ValidateOnStart();
        services.AddSingleton<IValidateOptions<PreparationOptions>, PreparationOptionsValidator>();
        var builder = new VideoPreparationBuilder(services);
        return configure is null ? builder : builder.Configure(configure);
    }
}

internal sealed class PreparationOptionsValidator : IValidateOptions<PreparationOptions>
{
    public ValidateOptionsResult Validate(string? name, PreparationOptions options) =>
        options.Problems().ToArray() is { Length: > 0 } problems ? ValidateOptionsResult.Fail(problems) : ValidateOptionsResult.Success;
}
