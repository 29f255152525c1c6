// Generation as a service of an application: options from appsettings.json, one generator shared by many requests.
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;
using OpenSora.Generation;
using OpenSora.Runtime;

var services = new ServiceCollection();
services.AddSingleton<IConfiguration>(new ConfigurationBuilder().SetBasePath(AppContext.BaseDirectory).AddJsonFile("appsettings.json").Build());
services.AddLogging(logging => logging.AddSimpleConsole(console => console.SingleLine = true));
services.AddOpenSora(options => options.FramesPerSecond ??= 12);
services.AddSingleton<Postcards>();

await using var provider = services.BuildServiceProvider();
provider.GetRequiredService<IStartupValidator>().Validate(); // a generic host does this by itself
foreach (var (backend, availability) in provider.GetRequiredService<BackendSelector>().Describe())
{
    Console.WriteLine($"{backend.Name}: {(availability.IsAvailable ? "available" : "not available")}, {availability.Reason}");
}

await provider.GetRequiredService<Postcards>().SendAsync(args.Length > 0 ? args : ["a goat", "a rocket"]);

/// <summary>A service of the application that generates.</summary>
internal sealed class Postcards(VideoGenerator generator, ILogger<Postcards> logger)
{
    // Requests may run at the same time: they share the model's weights.
    public Task SendAsync(IEnumerable<string> prompts) =>
        Task.WhenAll(
            prompts.Select(
                async (prompt, number) =>
                {
                    var video = await generator.GenerateAsync(new VideoRequest { Prompt = prompt, Seed = number });
                    await video.SaveMp4Async($"out/postcard-{number}.mp4");
                    logger.LogInformation("{Prompt} is in out/postcard-{Number}.mp4", prompt, number);
                }
            )
        );
}
