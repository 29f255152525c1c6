// Uses video generation as a service: options come from appsettings.json, and all requests share one generator.
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
provider.GetRequiredService<IStartupValidator>().Validate(); // a generic host does this automatically
foreach (var backend in provider.GetServices<IComputeBackend>())
{
    var availability = backend.CheckAvailability();
    Console.WriteLine($"{backend.Name}: {(availability.IsAvailable ? "available" : "not available")}, {availability.Reason}");
}

await provider.GetRequiredService<Postcards>().SendAsync(args.Length > 0 ? args : ["a goat", "a rocket"]);

/// <summary>An application service that generates videos.</summary>
internal sealed class Postcards(VideoGenerator generator, ILogger<Postcards> logger)
{
    // Requests can run concurrently: they share the weights of the model.
    public Task SendAsync(IEnumerable<string> prompts) =>
        Task.WhenAll(
            prompts.Select(
                async (prompt, number) =>
                {
                    var video = await generator.GenerateAsync(new VideoRequest { Prompt = prompt, Seed = number });
                    await video.SaveMp4Async($"out/postcard-{number}.mp4");
                    logger.LogInformation("Saved {Prompt} to out/postcard-{Number}.mp4", prompt, number);
                }
            )
        );
}
