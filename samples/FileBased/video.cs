// A program in one file, without a project: dotnet run video.cs "a goat"
// In this repository, run ./build.sh pack first. Elsewhere, copy this file alone. On Windows and macOS, reference libtorch-cpu-win-x64 or
// libtorch-cpu-osx-arm64.
#:package OpenSora.Lib.Stickers@*-*
#:package libtorch-cpu-linux-x64@2.10.0
#:property PublishAot=false
using OpenSora.Generation;

using var generator = VideoGenerator.Create().UseModel("stickers").Build();
var video = await generator.Request(args.FirstOrDefault() ?? "a goat").Seed(42).GenerateAsync();
await video.SaveMp4Async("video.mp4");
