using 'main.bicep'

param mode = 'service_bus'
param workerHost = 'appService'
param image = readEnvironmentVariable('GEOWORKER_IMAGE')
param registryName = 'REPLACE-with-your-registry'
param databaseAdministratorId = '00000000-0000-0000-0000-000000000000'
param databaseAdministratorName = 'REPLACE-with-the-name-of-that-group'
param apiKey = readEnvironmentVariable('GEOWORKER_API_KEY')
param callbackSecret = readEnvironmentVariable('GEOWORKER_CALLBACK_SECRET')
param alertEmail = 'operators@example.org'
